// The page: what its buttons do, and what it shows of the session that is going on.

import { asJson, asSrt, asText } from "./captions.js";
import { Latency } from "./latency.js";
import { Meter } from "./meter.js";
import { isAvailable, Microphone } from "./microphone.js";
import { Options } from "./options.js";
import { handshakeProblem, insecureSentence, microphoneProblem } from "./problems.js";
import { decode, Recording } from "./recording.js";
import { copy, download } from "./saving.js";
import { askInfo, streamUrl } from "./service.js";
import { Session } from "./session.js";
import { clock, View } from "./view.js";

const $ = (id) => document.getElementById(id);
const RATE = 16_000;
const MUTED_MS = 3000;
const TITLE = document.title;
const STATES = {
  idle: ["Start", ""],
  starting: ["Stop", "Asking for the microphone …"],
  connecting: ["Stop", "Connecting …"],
  listening: ["Stop", "Listening."],
  reconnecting: ["Stop", "Connecting again …"],
  finishing: ["Give up", "Waiting for the last words …"],
};

const options = new Options($("options"), $("options-form"));
const meter = new Meter($("meter"));
const latency = new Latency();
const view = new View({
  region: $("transcript"),
  finals: $("finals"),
  interim: $("interim"),
  welcome: $("welcome"),
  tip: $("tip"),
});

let segments = [];
let heardMs = 0;
let session = null;
let recording = null;
let rate = RATE;
let silentMs = 0;

// ------------------------------------------------------------------------------------------------- what is shown

function showState(state, detail) {
  const [label, says] = STATES[state];
  document.body.dataset.state = state;
  document.title = state === "listening" && session?.isLive ? `● ${TITLE}` : TITLE;
  $("start-label").textContent = label;
  $("file").disabled = state !== "idle";
  if (says) $("status").textContent = detail?.sentence ?? (state === "listening" ? session.doing : says);
  countDown(detail?.at);
}

let counting = 0;

/** Tells when the next try comes; screen readers are told the reason alone. */
function countDown(at) {
  clearInterval(counting);
  const tell = () => {
    const left = Math.ceil((at - performance.now()) / 1000);
    $("countdown").textContent = left > 0 ? `Trying again in ${left} s` : "Trying again …";
  };
  if (at) {
    tell();
    counting = setInterval(tell, 250);
  } else {
    $("countdown").textContent = "";
  }
}

function complain(problem) {
  $("notice-text").textContent = problem.sentence;
  $("notice").hidden = false;
  if (problem.field) options.point(problem.field);
}

function showSegment(segment) {
  segments.push(segment);
  view.final(segment);
  $("tools").hidden = false;
}

function showGap(ms, atMs) {
  view.gap(`${Math.round(ms / 1000)} s from ${clock(atMs)} on were not heard: the connection was away for too long.`);
}

function showLatency() {
  const { median } = latency;
  $("latency").textContent = median === null ? "" : `${Math.round(median)} ms from speech to word`;
}

/** How far a recording is that is not played. */
function showProgress(ms) {
  $("latency").textContent = `${clock(ms)} of ${clock(session.wholeMs)}`;
}

/** A microphone that is switched off hands out silence such as no room has. */
function watchForMute(samples, ms) {
  const was = silentMs;
  silentMs = samples.some((sample) => sample !== 0) ? 0 : silentMs + ms;
  if (document.body.dataset.state !== "listening") return;
  if (was < MUTED_MS && silentMs >= MUTED_MS) $("status").textContent = "Nothing comes from the microphone: is it muted?";
  else if (was >= MUTED_MS && !silentMs) showState("listening");
}

function showServed() {
  const { served } = options;
  $("served").textContent = served ? `${served.name}, ${served.look_ahead_ms} ms of look-ahead` : "";
}

async function ask() {
  const info = await askInfo(options.key);
  options.offer(info);
  rate = info?.service?.model_sample_rate_hertz || RATE;
  if (info?.error?.code === "unauthenticated") options.panel.open = true;
  showServed();
}

// ------------------------------------------------------------------------------------------------- what is done

async function begin(source) {
  $("notice").hidden = true;
  $("latency").textContent = "";
  latency.restart();
  silentMs = 0;
  const init = {
    sid: `page-${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`,
    words: true,
    details: true,
    ...options.init(),
  };
  const { isLive, samples } = source;
  session = new Session({
    url: streamUrl(),
    source,
    init,
    base: heardMs,
    diagnose: async () => handshakeProblem(await askInfo(options.key)),
    on: {
      state(state, detail) {
        if (state === "connecting" || state === "reconnecting") latency.restart();
        showState(state, detail);
      },
      interim: (text) => view.interim(text),
      final: showSegment,
      gap: showGap,
      problem: complain,
      packet(samples) {
        if (!isLive) return;
        const ms = (1000 * samples.length) / source.rate;
        meter.take(samples, ms);
        watchForMute(samples, ms);
      },
      heard(message, heardAt, ms) {
        if (!isLive) return showProgress(ms);
        latency.take(message, heardAt);
        if (message.final) showLatency();
      },
      end(ms) {
        heardMs = ms;
        session = null;
        meter.reset();
        $("status").textContent = "Stopped.";
      },
    },
  });
  session.isLive = isLive;
  session.wholeMs = samples ? (1000 * samples.length) / source.rate : 0;
  session.doing = samples ? (isLive ? "Playing the recording." : "Reading the recording.") : STATES.listening[1];
  await session.start();
}

async function beginMicrophone() {
  if (!isAvailable()) return complain({ sentence: insecureSentence() });
  try {
    await begin(new Microphone(rate));
  } catch (error) {
    complain(microphoneProblem(error));
  }
}

function beginRecording(atPace) {
  const { samples, rate: ofRecording } = recording;
  leaveRecording();
  begin(new Recording(samples, ofRecording, atPace)).catch((error) => complain({ sentence: error.message }));
}

async function openRecording(file) {
  if (session) return complain({ sentence: "Stop first, then open the recording." });
  $("notice").hidden = true;
  $("status").textContent = `Reading ${file.name} …`;
  try {
    recording = { rate, samples: await decode(file, rate) };
  } catch (error) {
    $("status").textContent = "Ready.";
    return complain({ sentence: error.message });
  }
  $("status").textContent = "Ready.";
  $("recording-name").textContent = file.name;
  $("recording-length").textContent = clock((1000 * recording.samples.length) / recording.rate);
  $("recording").hidden = false;
  $("recording-play").focus();
}

function leaveRecording() {
  recording = null;
  $("recording").hidden = true;
  $("file").value = "";
}

// ------------------------------------------------------------------------------------------------- the buttons

$("start").addEventListener("click", () => (session ? session.stop() : beginMicrophone()));
$("notice-close").addEventListener("click", () => ($("notice").hidden = true));
$("recording-play").addEventListener("click", () => beginRecording(true));
$("recording-send").addEventListener("click", () => beginRecording(false));
$("recording-close").addEventListener("click", leaveRecording);
$("file").addEventListener("change", ({ target }) => target.files[0] && openRecording(target.files[0]));
$("copy").addEventListener("click", async () => {
  try {
    await copy(asText(segments));
    $("status").textContent = "Copied.";
  } catch (error) {
    complain({ sentence: error.message });
  }
});
$("save-text").addEventListener("click", () => download("transcript.txt", "text/plain", asText(segments)));
$("save-srt").addEventListener("click", () => download("transcript.srt", "application/x-subrip", asSrt(segments)));
$("save-json").addEventListener("click", () => download("transcript.json", "application/json", asJson(segments)));
$("clear").addEventListener("click", () => {
  segments = [];
  view.clear();
  $("tools").hidden = true;
  if (!session) heardMs = 0;
});
options.onChange(ask, showServed);
addEventListener("online", () => session?.hurry());

const hasFile = (event) => event.dataTransfer?.types.includes("Files");
addEventListener("dragover", (event) => {
  if (!hasFile(event)) return;
  event.preventDefault();
  document.body.classList.add("dropping");
});
for (const name of ["dragleave", "drop"]) {
  addEventListener(name, (event) => {
    if (name === "drop" || !event.relatedTarget) document.body.classList.remove("dropping");
  });
}
addEventListener("drop", (event) => {
  if (!hasFile(event)) return;
  event.preventDefault();
  if (event.dataTransfer.files[0]) openRecording(event.dataTransfer.files[0]);
});

showState("idle");
if (!isAvailable()) complain({ sentence: insecureSentence() });
ask();
