"""The verbs of the command line: one file each, one line each in these tables."""

COMMANDS = {
    "adapt": "sapwood.commands.adapt:command",
    "prompt": "sapwood.commands.prompt:command",
    "tune": "sapwood.commands.tune:command",
    "compress": "sapwood.commands.compress:command",
    "distill": "sapwood.commands.distill:command",
    "meta": "sapwood.commands.meta:command",
    "eval": "sapwood.commands.evaluate:command",
    "predict": "sapwood.commands.predict:command",
    "chat": "sapwood.commands.chat:command",
    "report": "sapwood.commands.report:command",
    "compare": "sapwood.commands.compare:command",
    "data": "sapwood.commands.data:command",
    "models": "sapwood.commands.models:command",
    "doctor": "sapwood.commands.doctor:command",
}

ABOUT = {
    "adapt": "Decide by measuring: prompt it, tune it, or both; keep the best.",
    "prompt": "Prompt a frozen base with demonstrations and measure it.",
    "tune": "Train a light method on a frozen base and measure it.",
    "compress": "Turn an adaptation's context into a prefix, trained or not.",
    "distill": "Teach a student without a context what a context says.",
    "meta": "Train a base over several tasks to read demonstrations.",
    "eval": "Score an adaptation on a file, with intervals.",
    "predict": "Apply an adaptation to a file.",
    "chat": "Talk to a base, or to an adaptation, in the terminal.",
    "report": "Show a run's report again.",
    "compare": "Put runs side by side.",
    "data": "Check, show and fetch data sets.",
    "models": "List, fetch and describe bases.",
    "doctor": "Say what this machine is and how it will be used.",
}
