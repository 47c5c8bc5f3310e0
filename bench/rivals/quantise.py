"""llama.cpp's own quantiser, in the rivals' Python: `python -m bench.rivals.quantise BF16.gguf OUT.gguf q4_0 True`.

all tensors   True: the head too has the type named ("pure"); False: as llama.cpp itself does it, which keeps the head
              of a Q4_0 in Q6_K
"""

import ctypes
import sys

import llama_cpp


def main() -> None:
    """Quantise one file; exit code 1 where llama.cpp refuses."""
    source, target, kind, pure = sys.argv[1:5]
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = {"q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0}[kind]
    parameters.nthread, parameters.pure = 2, pure == "True"
    sys.exit(llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(parameters)) != 0)


if __name__ == "__main__":
    main()
