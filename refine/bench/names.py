"""Which forms of a network exist, and which are measured by default?"""

ON_CPU = (
    "eager", "folded", "compiled", "onnxruntime", "openvino", "onnxruntime-int8", "openvino-int8",
    "eager-bf16", "compiled-bf16",
)  # fmt: skip
ON_GPU = (
    "eager", "folded", "compiled", "eager-bf16", "compiled-bf16", "eager-fp16", "compiled-fp16",
)  # fmt: skip
FORMS = tuple(dict.fromkeys((*ON_CPU, *ON_GPU)))
USUAL_ON_CPU = ON_CPU[:-1]  # without compiled-bf16: a second compilation would take longest
USUAL_ON_GPU = tuple(form for form in ON_GPU if form != "eager-fp16")
