"""What changes weights: one file a method, one line each in this table."""

METHODS = {
    "lora": "sapwood.methods.lora:Lora",
    "dora": "sapwood.methods.dora:Dora",
    "vera": "sapwood.methods.vera:Vera",
    "ia3": "sapwood.methods.ia3:Ia3",
    "adapter": "sapwood.methods.adapter:Adapter",
    "bitfit": "sapwood.methods.bitfit:BitFit",
    "layernorm": "sapwood.methods.bitfit:LayerNorm",
}
