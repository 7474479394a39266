// What transformers.js makes of a folder: node transformers_js.mjs NODE_MODULES FOLDER < {"class" | "task", ...}
// Prints greedy tokens for tensors ("class", "inputs"), or what a pipeline gives ("task", "texts"), as JSON. "dtypes": for
// each of these dtypes.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, folder] = process.argv.slice(2).map((path) => resolve(path));
const asked = JSON.parse(readFileSync(0, "utf8"));
const found = createRequire(`${modules}/`).resolve("@huggingface/transformers");
const js = await import(pathToFileURL(found.replace(/\.cjs$/, ".mjs")));
js.env.allowRemoteModels = false;
js.env.allowLocalModels = true;
js.env.localModelPath = dirname(folder);

const settings = { do_sample: false, max_new_tokens: asked.tokens, ...asked.settings };
const plain = (value) => (value.tolist ? value.tolist() : value);
const answer = async (options) => {
  if (asked.task) {
    const run = await js.pipeline(asked.task, basename(folder), options);
    return plain(await run(asked.texts, settings));
  }
  const model = await js[asked.class].from_pretrained(basename(folder), options);
  const inputs = {};
  for (const [name, { type, dims, data }] of Object.entries(asked.inputs)) {
    const numbers = type === "int64" ? BigInt64Array.from(data.map(BigInt)) : Float32Array.from(data);
    inputs[name] = new js.Tensor(type, numbers, dims);
  }
  const made = await model.generate({ ...inputs, ...settings });
  return made.tolist().map((row) => row.map(Number));
};
if (asked.dtypes) {
  const found = {};
  for (const dtype of asked.dtypes) found[dtype] = await answer({ dtype });
  console.log(JSON.stringify(found));
} else {
  console.log(JSON.stringify(await answer(asked.options ?? {})));
}
