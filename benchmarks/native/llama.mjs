// Measures llama.cpp through node-llama-cpp: `node llama.mjs MODEL THREADS`, with node_modules in the working directory.
// A line of stdin is {"prompt": ids, "decode_tokens": n}. The answer is a line with the seconds of a repetition, as
// edge_transact/bench/drivers/host_runner.py measures them: until the first token is chosen, and the tokens after it.
import {createRequire} from "node:module";
import {createInterface} from "node:readline";
import {pathToFileURL} from "node:url";

const require = createRequire(process.cwd() + "/package.json");
const {getLlama} = await import(pathToFileURL(require.resolve("node-llama-cpp")));
const [path, threads] = [process.argv[2], Number(process.argv[3])];
const llama = await getLlama({build: "never", gpu: false, maxThreads: threads, logLevel: "error"});
const model = await llama.loadModel({modelPath: path});
const context = await model.createContext({contextSize: 2048, batchSize: 512, threads});
const sequence = context.getSequence();
const say = (object) => process.stdout.write(JSON.stringify(object) + "\n");

say({release: llama.llamaCppRelease.release});
for await (const line of createInterface({input: process.stdin})) {
  const {prompt, decode_tokens} = JSON.parse(line);
  await sequence.clearHistory();
  const start = performance.now();
  let first = 0, count = 0;
  for await (const _ of sequence.evaluate(prompt, {temperature: 0, yieldEogToken: true})) {
    count++;
    if (count === 1) first = performance.now();
    if (count === decode_tokens) break;
  }
  const end = performance.now();
  say({prefill_s: (first - start) / 1e3, decode_s: (end - first) / 1e3, tokens: count});
}
process.exit(0);
