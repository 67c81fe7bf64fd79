// Evaluates JavaScript for node.py: a request per line on standard input, a reply per line on standard output.
"use strict";
const fs = require("fs");
const readline = require("readline");
const vm = require("vm");

vm.runInThisContext(fs.readFileSync(process.argv[2], "utf8"), { filename: "engine.js" });

function decode(value) {
  if ("json" in value) return value.json;
  const bytes = Buffer.from(value.float32 ?? value.bytes, "base64");
  const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
  return "bytes" in value ? buffer : new Float32Array(buffer);
}

function encode(value) {
  if (!(value instanceof Float32Array)) return value ?? null;
  return { float32: Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString("base64") };
}

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  let reply;
  try {
    const { expression, values } = JSON.parse(line);
    const body = /\breturn\b/.test(expression) ? expression : `return ${expression};`;
    const call = vm.runInThisContext(`(function (${Object.keys(values).join(", ")}) { ${body} })`);
    reply = { value: encode(call(...Object.values(values).map(decode))) };
  } catch (error) {
    reply = { error: error.stack ?? String(error) };
  }
  process.stdout.write(`${JSON.stringify(reply)}\n`);
});
