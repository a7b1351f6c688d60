"""What is not taken, and why: the end of the sentence 'operator X ...'."""

RANDOM = "draws random numbers, which this compiler does not: export the network for inference"
SEQUENCES = "works on sequences or optional values; this compiler takes tensors"
STRINGS = "works on strings; this compiler takes numbers"
QUANTISED = (
    "computes with quantised numbers itself, where this compiler takes them between QuantizeLinear and "
    "DequantizeLinear: quantise the network statically in QDQ form (onnxruntime's QuantFormat.QDQ)"
)
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
            "DynamicQuantizeLinear",
            "MatMulInteger",
            "QLinearConv",
            "QLinearMatMul",
        ),
        QUANTISED,
    ),
    **dict.fromkeys(("NonMaxSuppression", "Unique"), VALUES),
    **dict.fromkeys(("Loop", "Scan"), SUBGRAPH),
}
