#!/bin/sh
# Sets up what `bench.cpu` compares with, in .rivals (not in .venv): llama-cpp-python compiled for this CPU (about 20
# minutes on 2 cores) and OpenVINO GenAI with its exporter. Run from the repository's root; quick the second time.
set -eu
python=${PYTHON:-python3.11}
[ -x .rivals/bin/python ] || "$python" -m venv .rivals
pip=".rivals/bin/python -m pip install --no-input --disable-pip-version-check -q"
if grep -q amx_tile /proc/cpuinfo; then
    # A native build dies on its first tile instruction on the AMX machines we have seen: all the rest, without AMX.
    flags="-DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DGGML_AVX512=ON"
    flags="$flags -DGGML_AVX512_VBMI=ON -DGGML_AVX512_VNNI=ON -DGGML_AVX512_BF16=ON"
else
    flags="-DGGML_NATIVE=ON"
fi
.rivals/bin/python -c 'import llama_cpp' 2>/dev/null || {
    echo "Compiling llama-cpp-python ($flags) ..."
    CMAKE_ARGS="$flags" $pip 'llama-cpp-python==0.3.36'
}
.rivals/bin/python -c 'import openvino_genai, optimum.intel' 2>/dev/null || {
    echo "Installing OpenVINO GenAI ..."
    $pip torch==2.13.0
    $pip 'optimum-intel[openvino]' openvino-genai
    .rivals/bin/python -m pip uninstall -q -y torchvision
}
echo "ready: $(.rivals/bin/python -m pip list 2>/dev/null | grep -iE 'llama|openvino' | tr -s ' ' ' ' | tr '\n' ';')"
