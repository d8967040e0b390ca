// Runs llama.cpp through node-llama-cpp: `node llama.mjs MODEL`, with node_modules in the working directory.
// A line of stdin is a request, and the answer is a line:
//   {"prompt": ids, "decode_tokens": n}  the likeliest tokens that follow
//   {"logits": ids}                      the logits after each token
//   {"logprobs": ids}                    the log-probability of each token but the first, given those before it
//   {"text": text}                       the tokens of a text
//   {"open": path}                       another model takes this one's place
import {createRequire} from "node:module";
import {createInterface} from "node:readline";
import {pathToFileURL} from "node:url";

const require = createRequire(process.cwd() + "/package.json");
const {getLlama} = await import(pathToFileURL(require.resolve("node-llama-cpp")));
const llama = await getLlama({build: "never", gpu: false, maxThreads: 1, logLevel: "error"});
let model, sequence;
const say = (object) => process.stdout.write(JSON.stringify(object) + "\n");

async function open(modelPath) {
  await model?.dispose();
  model = await llama.loadModel({modelPath});
  const contextSize = Math.min(2048, model.trainContextSize);
  const context = await model.createContext({contextSize, batchSize: Math.min(512, contextSize), threads: 1});
  sequence = context.getSequence();
  return {};
}

async function continued(prompt, decodeTokens) {
  const tokens = [];
  for await (const token of sequence.evaluate(prompt, {temperature: 0, yieldEogToken: true})) {
    tokens.push(token);
    if (tokens.length === decodeTokens) break;
  }
  return {tokens};
}

async function afterEach(ids, use) {
  const onTokenResult = (index, result) => {
    const logits = new Array(result.next.logits.size);
    for (const [token, logit] of result.next.logits) logits[token] = logit;
    use(index, logits);
  };
  await sequence.controlledEvaluate(ids.map((id) => [id, {generateNext: {logits: true}}]), {onTokenResult});
}

function logSumExp(values) {
  const most = values.reduce((a, b) => Math.max(a, b));
  return most + Math.log(values.reduce((sum, value) => sum + Math.exp(value - most), 0));
}

say(await open(process.argv[2]));
for await (const line of createInterface({input: process.stdin})) {
  const request = JSON.parse(line);
  await sequence.clearHistory();
  if (request.open !== undefined) {
    say(await open(request.open));
  } else if (request.text !== undefined) {
    say({tokens: model.tokenize(request.text, true)});
  } else if (request.logits !== undefined) {
    const logits = [];
    await afterEach(request.logits, (index, values) => (logits[index] = values));
    say({logits});
  } else if (request.logprobs !== undefined) {
    const ids = request.logprobs, logprobs = [];
    await afterEach(ids.slice(0, -1), (i, values) => (logprobs[i] = values[ids[i + 1]] - logSumExp(values)));
    say({logprobs});
  } else {
    say(await continued(request.prompt, request.decode_tokens));
  }
}
process.stdout.end(() => process.exit(0));
