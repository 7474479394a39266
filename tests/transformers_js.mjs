// What transformers.js makes of a folder: node transformers_js.mjs NODE_MODULES FOLDER < {"class" | "task", ...}
// Prints greedy tokens for tensors ("class", "inputs"), or what a pipeline writes ("task", "texts"), as JSON.
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

const settings = { do_sample: false, max_new_tokens: asked.tokens };
if (asked.task) {
  const write = await js.pipeline(asked.task, basename(folder), asked.options ?? {});
  console.log(JSON.stringify(await write(asked.texts, settings)));
} else {
  const model = await js[asked.class].from_pretrained(basename(folder), asked.options ?? {});
  const inputs = {};
  for (const [name, { type, dims, data }] of Object.entries(asked.inputs)) {
    const numbers = type === "int64" ? BigInt64Array.from(data.map(BigInt)) : Float32Array.from(data);
    inputs[name] = new js.Tensor(type, numbers, dims);
  }
  const made = await model.generate({ ...inputs, ...settings });
  console.log(JSON.stringify(made.tolist().map((row) => row.map(Number))));
}
