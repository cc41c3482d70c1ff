// Drives Deepgram's SDK against the bridge: live, and with a file in one request.
"use strict";

const fs = require("fs");
const { DeepgramClient } = require("@deepgram/sdk");
const { main, paced } = require("./common.cjs");

function client(given) {
  const environment = {
    base: given.bridge.replace("ws", "http"),
    production: given.bridge,
    agent: given.bridge,
    agentRest: given.bridge.replace("ws", "http"),
  };
  return new DeepgramClient({ apiKey: "none", environment, maxRetries: 0 });
}

async function live(given, file) {
  const heard = { finals: [], finalized: 0, interims: 0, kinds: [], close: null };
  const connection = await client(given).listen.v1.connect({
    model: "nova-3",
    encoding: "linear16",
    sample_rate: "16000",
    interim_results: "true",
    vad_events: "true",
    endpointing: "false",
    reconnectAttempts: 0,
    ...file.config,
  });
  const closed = new Promise((resolve) => connection.on("close", resolve));
  connection.on("message", (message) => {
    if (!heard.kinds.includes(message.type)) heard.kinds.push(message.type);
    if (message.type !== "Results") return;
    const { transcript } = message.channel.alternatives[0];
    if (!message.is_final) heard.interims += 1;
    else if (transcript) heard.finals.push(transcript);
    if (message.from_finalize) heard.finalized += 1;
  });
  connection.connect();
  await connection.waitForOpen();
  await paced(file, given.live, (piece) => {
    if (piece === null) connection.sendFinalize({ type: "Finalize" });
    else connection.sendMedia(piece);
  });
  connection.sendCloseStream({ type: "CloseStream" });
  heard.close = (await closed).code;
  connection.close();
  return heard;
}

async function whole(given, file) {
  const response = await client(given).listen.v1.media.transcribeFile(fs.createReadStream(file.wav), {
    model: "nova-3",
    utterances: true,
    ...file.config,
  });
  const [best] = response.results.channels[0].alternatives;
  return { finals: [best.transcript], words: best.words.map((word) => word.word) };
}

main(["@deepgram/sdk"], async (given, file) => {
  try {
    return await (file.wav ? whole : live)(given, file);
  } catch (error) {
    return { error: { status: error.statusCode, body: error.body } };
  }
});
