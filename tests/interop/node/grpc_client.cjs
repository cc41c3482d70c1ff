// Drives `@grpc/grpc-js` with `@grpc/proto-loader` against the service: the contract as a file, no generated code.
"use strict";

const path = require("path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");
const { main, paced } = require("./common.cjs");

const ROOT = path.resolve(__dirname, "../../..");
const CONTRACT = loader.loadSync("asr/v1/asr.proto", {
  includeDirs: [path.join(ROOT, "proto")],
  keepCase: true,
  longs: Number,
  defaults: true,
});
const { SpeechService } = grpc.loadPackageDefinition(CONTRACT).asr.v1;

function hear(given, file) {
  const ca = given.ca && Buffer.from(given.ca);
  const client = new SpeechService(given.target, ca ? grpc.credentials.createSsl(ca) : grpc.credentials.createInsecure());
  const metadata = new grpc.Metadata();
  for (const [name, value] of Object.entries(given.headers ?? {})) metadata.set(name, value);
  return new Promise((resolve) => {
    const heard = { finals: [], tags: [], interims: 0, error: null, close: null };
    const call = client.Recognize(metadata);
    let over = false;
    // A write that does not fit waits for `drain`: what flow control asks of a client.
    const write = (request) =>
      new Promise((done) => {
        if (over || call.write(request)) done();
        else call.once("drain", done);
      });
    call.on("data", ({ result }) => {
      if (result.is_final) {
        heard.finals.push(result.text);
        heard.tags.push(result.finalize_tag);
      } else heard.interims += 1;
    });
    call.on("error", (error) => {
      heard.error = { code: grpc.status[error.code], message: error.details };
    });
    call.on("status", ({ code }) => {
      over = true;
      client.close();
      resolve({ ...heard, close: grpc.status[code] });
    });
    (async () => {
      await write({ config: { stream_id: "node", sample_rate_hertz: 16000, ...file.config } });
      await paced(file, given.live, (piece) =>
        write(piece === null ? { finalize: { tag: "now" } } : { audio: piece }),
      );
      call.end();
    })();
  });
}

main(["@grpc/grpc-js", "@grpc/proto-loader"], hear);
