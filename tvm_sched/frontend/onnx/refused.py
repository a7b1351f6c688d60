"""What is not taken, and why: the end of the sentence 'operator X ...'."""

RANDOM = "draws random numbers, which this compiler does not: export the network for inference"
SEQUENCES = "works on sequences or optional values; this compiler takes tensors"
STRINGS = "works on strings; this compiler takes numbers"
QUANTISED = "belongs to a quantised network; quantised ONNX files come in a later version, so export it in float32"
VALUES = "gives a result whose size depends on values; this compiler takes networks of fixed shapes"
SUBGRAPH = "runs a subgraph; this compiler takes networks without loops: export it with the loop unrolled"

REFUSED = {
    **dict.fromkeys(
        ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"), RANDOM
    ),
    **dict.fromkeys(
        (
            "ConcatFromSequence",
            "Optional",
            "OptionalGetElement",
            "OptionalHasElement",
            "SequenceAt",
            "SequenceConstruct",
            "SequenceEmpty",
            "SequenceErase",
            "SequenceInsert",
            "SequenceLength",
            "SequenceMap",
            "SplitToSequence",
        ),
        SEQUENCES,
    ),
    **dict.fromkeys(
        ("ImageDecoder", "RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer"),
        STRINGS,
    ),
    **dict.fromkeys(
        (
            "ConvInteger",
            "DequantizeLinear",
            "DynamicQuantizeLinear",
            "MatMulInteger",
            "QLinearConv",
            "QLinearMatMul",
            "QuantizeLinear",
        ),
        QUANTISED,
    ),
    **dict.fromkeys(("NonMaxSuppression", "Unique"), VALUES),
    **dict.fromkeys(("Loop", "Scan"), SUBGRAPH),
}
