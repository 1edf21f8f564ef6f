"""The verbs of the command line: one file each, one line each in this table."""

COMMANDS = {
    "adapt": "sapwood.commands.adapt:command",
    "data": "sapwood.commands.data:command",
    "models": "sapwood.commands.models:command",
    "prompt": "sapwood.commands.prompt:command",
    "tune": "sapwood.commands.tune:command",
    "eval": "sapwood.commands.evaluate:command",
    "predict": "sapwood.commands.predict:command",
    "report": "sapwood.commands.report:command",
    "compare": "sapwood.commands.compare:command",
    "doctor": "sapwood.commands.doctor:command",
}
