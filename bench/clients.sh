#!/bin/sh
# Sets up what `bench.clients`, `bench.conformance` and `bench.browser` drive the server with, in .clients (not in
# .venv): official clients and suites, from Python's and node's own package registries. Run from the repository's root;
# quick the second time.
set -eu
python=${PYTHON:-python3.11}
command -v node >/dev/null && command -v npm >/dev/null || {
    echo "node and npm are needed for the JavaScript clients: install Node.js 20 or newer." >&2
    exit 1
}
[ -x .clients/py/bin/python ] || "$python" -m venv .clients/py
.clients/py/bin/python -c 'import openai, anthropic, langchain_openai, pydantic_ai, llm_comply, schemathesis, pytest
import playwright, axe_playwright_python' 2>/dev/null || {
    echo "Installing the Python clients ..."
    .clients/py/bin/python -m pip install --no-input --disable-pip-version-check -q openai anthropic langchain-openai \
        'pydantic-ai-slim[openai,anthropic]' llm-comply schemathesis pytest playwright axe-playwright-python
}
mkdir -p .clients/node
have=yes
for package in openai @anthropic-ai/sdk ai @ai-sdk/openai-compatible compatcanary zod axe-core; do
    [ -f ".clients/node/node_modules/$package/package.json" ] || have=no
done
[ $have = yes ] || {
    echo "Installing the JavaScript clients ..."
    [ -f .clients/node/package.json ] || echo '{"private": true}' >.clients/node/package.json
    npm install --prefix .clients/node --no-audit --no-fund --loglevel=error \
        openai @anthropic-ai/sdk ai @ai-sdk/openai-compatible compatcanary zod axe-core
}
echo "ready: .clients/py and .clients/node"
