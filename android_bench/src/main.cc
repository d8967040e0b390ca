// edge-bench: latency and memory of a built model on the device it runs on, as JSON lines.
//
// A repetition is what an engine does for one question: the KV cache is emptied, the prompt is prefilled in chunks, the
// first token is chosen on the host, and the rest is decoded one token at a time. Durations are taken on a steady clock.
#include <unistd.h>

#include <cstdio>
#include <ctime>
#include <exception>
#include <numeric>
#include <stdexcept>

#include "json_line.h"
#include "model.h"
#include "options.h"
#include "process.h"

namespace edge {
namespace {

constexpr int kFailed = 1, kUsage = 2, kLowMemory = 3, kTimeout = 124, kAbandoned = 130;
constexpr double kMib = 1 << 20;

struct Repetition {
  double prefill_s = 0, e2e_s = 0;
  std::vector<double> chunks_s, steps_s;
  std::vector<int32_t> tokens;
};

Repetition RunOnce(Model& model, const std::vector<int32_t>& prompt, int decode_tokens) {
  Repetition result;
  model.Reset();
  double start = Now();
  int32_t token = model.Prefill(prompt, &result.chunks_s);
  result.prefill_s = Now() - start;
  result.tokens.push_back(token);
  for (int i = 1; i < decode_tokens; ++i) {
    double step = Now();
    token = model.Decode(token);
    result.steps_s.push_back(Now() - step);
    result.tokens.push_back(token);
  }
  result.e2e_s = Now() - start;
  return result;
}

void AddMemory(JsonLine& line) {
  line.Add("rss_mib", StatusBytes("/proc/self/status", "VmRSS") / kMib);
  line.Add("peak_rss_mib", StatusBytes("/proc/self/status", "VmHWM") / kMib);
}

// How many of the parity record's tokens come out again before the first that differs.
int CheckedTokens(Model& model, const Options& options) {
  Repetition result = RunOnce(model, options.check_prompt, static_cast<int>(options.check_tokens.size()));
  size_t same = 0;
  while (same < result.tokens.size() && result.tokens[same] == options.check_tokens[same]) ++same;
  return static_cast<int>(same);
}

void Bench(const Options& options, LineWriter& out) {
  VolunteerForOom();
  ChooseCores(options.threads, options.cores);
  out.Write(JsonLine("start").Add("pid", static_cast<int64_t>(getpid())));

  Model model(options);
  JsonLine loaded("load");
  loaded.Add("load_s", model.load_s()).Add("kernel_build_s", model.kernel_build_s());
  loaded.Add("kernels_restored", static_cast<int>(model.kernels_restored())).Add("threads", model.threads());
  loaded.Add("weights_mib", model.weights_bytes() / kMib).Add("kv_mib", model.kv_bytes() / kMib);
  loaded.Add("context_tokens", model.context_tokens()).Add("prefill_chunk_tokens", model.prefill_chunk_tokens());
  AddMemory(loaded);
  out.Write(loaded);

  if (!options.check_prompt.empty()) {
    int same = CheckedTokens(model, options);
    out.Write(JsonLine("check").Add("tokens_checked", static_cast<int64_t>(options.check_tokens.size()))
                  .Add("tokens_agreed", same));
  }
  for (int i = 0; i < options.warmups; ++i) {
    Repetition result = RunOnce(model, options.prompt, options.decode_tokens);
    out.Write(JsonLine("warmup").Add("e2e_s", result.e2e_s));
  }
  for (int i = 0; i < options.repetitions; ++i) {
    int64_t started = static_cast<int64_t>(std::time(nullptr));
    Repetition result = RunOnce(model, options.prompt, options.decode_tokens);
    JsonLine line("repetition");
    line.Add("index", i).Add("started_at", started);
    line.Add("prefill_tokens", static_cast<int64_t>(options.prompt.size())).Add("decode_tokens", options.decode_tokens);
    line.Add("ttft_s", result.prefill_s).Add("prefill_s", result.prefill_s).Add("prefill_chunks_s", result.chunks_s);
    line.Add("decode_s", std::accumulate(result.steps_s.begin(), result.steps_s.end(), 0.0));
    line.Add("decode_steps_s", result.steps_s).Add("e2e_s", result.e2e_s).Add("tokens", result.tokens);
    AddMemory(line);
    out.Write(line);
  }
  JsonLine last("final");
  last.Add("repetitions", options.repetitions);
  AddMemory(last);
  out.Write(last);
}

int Main(int argc, char** argv) {
  Options options;
  try {
    options = ParseOptions(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "edge-bench: %s\n%s", error.what(), Usage());
    return kUsage;
  }
  // Never destroyed: the watchers may still write while the process ends.
  LineWriter& out = *new LineWriter(options.run, options.output);
  if (options.watch_stdin) WatchStdin([] { _exit(kAbandoned); });
  if (options.timeout_s > 0) {
    WatchClock(options.timeout_s, [&out] {
      out.Write(JsonLine("error").Add("code", "timeout").Add("message", "took longer than --timeout"));
      _exit(kTimeout);
    });
  }
  try {
    Bench(options, out);
    return 0;
  } catch (const LowMemory& error) {
    out.Write(JsonLine("error").Add("code", "low_memory").Add("message", error.what()));
    return kLowMemory;
  } catch (const std::exception& error) {
    out.Write(JsonLine("error").Add("code", "failed").Add("message", error.what()));
    return kFailed;
  }
}

}  // namespace
}  // namespace edge

int main(int argc, char** argv) {
  int code = edge::Main(argc, argv);
  // The runtime's thread pool and OpenCL drivers have been seen to hang in their destructors.
  std::fflush(nullptr);
  _exit(code);
}
