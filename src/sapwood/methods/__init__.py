"""What changes weights: one file a method, one line each in this table."""

METHODS = {
    "lora": "sapwood.methods.lora:Lora",
    "dora": "sapwood.methods.dora:Dora",
    "vera": "sapwood.methods.vera:Vera",
    "ia3": "sapwood.methods.ia3:Ia3",
    "adapter": "sapwood.methods.adapter:Adapter",
    "hub-adapter": "sapwood.methods.hub_adapter:HubAdapter",
    "compacter": "sapwood.methods.compacter:Compacter",
    "reft": "sapwood.methods.reft:Reft",
    "bitfit": "sapwood.methods.bitfit:BitFit",
    "layernorm": "sapwood.methods.bitfit:LayerNorm",
    "full": "sapwood.methods.full:Full",
    "fusion": "sapwood.methods.fusion:Fusion",
    "together": "sapwood.methods.together:Together",
    "prompt": "sapwood.methods.prompt:Prompt",
    "p_tuning": "sapwood.methods.p_tuning:PTuning",
    "prefix": "sapwood.methods.prefix_tuning:Prefix",
}
