// Drives OpenAI's SDK against the bridge: realtime transcription, which it speaks over TLS alone, and files.
"use strict";

const fs = require("fs");
const OpenAI = require("openai");
const { OpenAIRealtimeWS } = require("openai/realtime/ws");
const { main, paced } = require("./common.cjs");

const TRANSCRIPTION = "conversation.item.input_audio_transcription";

function live(given, file) {
  return new Promise((resolve, reject) => {
    const heard = { finals: [], deltas: "", kinds: [] };
    const client = new OpenAI({ apiKey: "none", baseURL: `${given.bridge.replace("ws", "http")}/v1` });
    const realtime = new OpenAIRealtimeWS({ model: "gpt-4o-transcribe", options: { ca: given.ca } }, client);
    realtime.on("error", reject);
    realtime.on("event", (event) => {
      if (!heard.kinds.includes(event.type)) heard.kinds.push(event.type);
    });
    realtime.on("session.created", () => {
      const input = {
        format: { type: "audio/pcm", rate: 24000 },
        transcription: { model: "gpt-4o-transcribe", language: "en" },
        turn_detection: null,
      };
      realtime.send({ type: "session.update", session: { type: "transcription", audio: { input } } });
    });
    realtime.on("session.updated", async () => {
      await paced(file, given.live, (piece) => {
        if (piece === null) realtime.send({ type: "input_audio_buffer.commit" });
        else realtime.send({ type: "input_audio_buffer.append", audio: piece.toString("base64") });
      });
      realtime.send({ type: "input_audio_buffer.commit" });
    });
    realtime.on(`${TRANSCRIPTION}.delta`, (event) => {
      heard.deltas += event.delta;
    });
    realtime.on(`${TRANSCRIPTION}.completed`, (event) => {
      heard.finals.push(event.transcript);
      if (heard.finals.length <= file.finalize.length) return;
      realtime.close();
      resolve(heard);
    });
  });
}

async function whole(given, file) {
  const client = new OpenAI({ apiKey: "none", baseURL: `${given.bridge.replace("ws", "http")}/v1`, maxRetries: 0 });
  const ask = (more) =>
    client.audio.transcriptions.create({ file: fs.createReadStream(file.wav), model: "whisper-1", ...more });
  const verbose = await ask({ response_format: "verbose_json", timestamp_granularities: ["word"] });
  let deltas = "";
  for await (const event of await ask({ stream: true })) deltas += event.delta ?? "";
  return { finals: [verbose.text], deltas, words: verbose.words.map((word) => word.word) };
}

main(["openai"], (given, file) => (file.wav ? whole : live)(given, file));
