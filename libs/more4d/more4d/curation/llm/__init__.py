"""Questions to any server that speaks OpenAI's chat completions: vLLM, SGLang, llama.cpp, DeepSeek and others."""
