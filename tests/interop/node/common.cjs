// What the drivers share: the order on standard input, what was heard on standard output; see ../drivers/common.py.
"use strict";

const fs = require("fs");
const path = require("path");

const PACKET_BYTES = 640; // 20 ms
const PACKET_MS = 20;

/** The order: where to connect, and raw 16 kHz audio files by name, each with the places where a final is asked for. */
function order() {
  return JSON.parse(fs.readFileSync(0, "utf8"));
}

/** A file's packets in order, and `null` where a final is asked for. */
function* pieces(file) {
  const pcm = fs.readFileSync(file.path);
  const marks = new Set(file.finalize);
  for (let at = 0, count = 0; at < pcm.length; at += PACKET_BYTES, count += 1) {
    if (marks.has(count)) yield null;
    yield pcm.subarray(at, at + PACKET_BYTES);
  }
}

/** Calls `send` with each piece when a live speaker would have spoken it, or at once for a recording. */
async function paced(file, live, send) {
  let due = Date.now();
  for (const piece of pieces(file)) {
    if (live && piece !== null) {
      due += PACKET_MS;
      await new Promise((wake) => setTimeout(wake, Math.max(0, due - Date.now())));
    }
    await send(piece);
  }
}

/** Runs `hear(given, file)` for all files at the same time and prints what came of it. */
async function main(packages, hear) {
  const given = order();
  const heard = {};
  await Promise.all(
    Object.entries(given.files).map(async ([name, file]) => {
      heard[name] = await hear(given, file);
    }),
  );
  // Some packages do not let their own be required.
  const read = (name) => JSON.parse(fs.readFileSync(path.join(process.env.NODE_PATH, name, "package.json"), "utf8"));
  const versions = Object.fromEntries(packages.map((name) => [name, read(name).version]));
  process.stdout.write(JSON.stringify({ versions, heard }));
}

module.exports = { main, paced };
