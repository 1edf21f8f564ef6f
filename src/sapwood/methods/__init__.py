"""What changes weights: one file a method, one line each in this table."""

METHODS = {
    "lora": "sapwood.methods.lora:Lora",
}
