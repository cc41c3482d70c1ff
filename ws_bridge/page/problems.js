// What went wrong, as a sentence that says what to do.
//
// A problem: { sentence, retryMs, field }. `retryMs` is null where trying again is no use; `field` names the option at fault.

const RETRY_MS = 1000;

/** A message of the server's as a sentence. */
const said = (message) => `${message.charAt(0).toUpperCase()}${message.slice(1)}${/[.!?]$/.test(message) ? "" : "."}`;

const problem = (sentence, { retryMs = null, field = "" } = {}) => ({ sentence, retryMs, field });

/** Why there is no microphone. */
export function microphoneProblem(error) {
  switch (error.name) {
    case "NotAllowedError":
    case "SecurityError":
      return problem(
        "The microphone was refused. Allow it for this page (the sign beside the address), then press Start again.",
      );
    case "NotFoundError":
    case "OverconstrainedError":
      return problem("No microphone was found. Connect one and press Start again, or open a recording.");
    case "NotReadableError":
    case "AbortError":
      return problem("The microphone cannot be used: another program may hold it. Close that and press Start again.");
    default:
      return problem(error.message);
  }
}

/** Why the browser of a page that came over plain http has no microphone to give. */
export const insecureSentence = () =>
  `Browsers give the microphone only to pages over https or from localhost, and this one came from ${location.origin}. ` +
  `On the machine itself, open http://localhost:${location.port || 80}. For others, give the bridge a certificate ` +
  "(ASR_BRIDGE_TLS_CERT and ASR_BRIDGE_TLS_KEY) or put a proxy with one before it. Recordings work here as well.";

/** Why a connection ended that had been open: `how` as a link tells it. */
export function explain({ code, reason, error }, init) {
  if (!error) {
    if (code === 1008 || code === 1009) return problem(`The server ended the connection: ${reason || `code ${code}`}.`);
    return problem("The connection was lost.", { retryMs: 0 });
  }
  const retryMs = error.retry_after_ms ?? null;
  const sentence = said(error.message);
  switch (error.code) {
    case "unauthenticated":
      return problem(
        init.key
          ? "The server does not know this API key. Check it under Options, then press Start again."
          : "The server asks for an API key. Enter yours under Options, then press Start again.",
        { field: "key" },
      );
    case "unavailable":
    case "internal":
      return problem(sentence, { retryMs: retryMs ?? RETRY_MS });
    case "invalid_argument": {
      // An item of a list is named by its number, which nobody has counted: `phrases[3] has ...`.
      const [, list, number] = /^(\w+)\[(\d+)\]$/.exec(error.field ?? "") ?? [];
      const item = init[list]?.[number];
      if (item === undefined) return problem(sentence, { field: error.field ?? "" });
      return problem(said(error.message.replace(error.field, `“${item}”`)), { field: list });
    }
    default:
      return problem(sentence, { retryMs });
  }
}

/** Why a handshake failed, of which the browser itself says nothing: `info` is what the bridge tells of itself. */
export function handshakeProblem(info) {
  if (!info) {
    const sentence = navigator.onLine ? "The server cannot be reached." : "This device is offline.";
    return problem(sentence, { retryMs: 0 });
  }
  if (info.origins?.length && !info.origins.includes(location.origin)) {
    return problem(
      `The bridge does not let pages from ${location.origin} connect. Add that to ASR_BRIDGE_ORIGINS and start it again.`,
    );
  }
  if (info.accepting === false) {
    const why = info.reason === "draining" ? "The server is shutting down." : "The server is full.";
    return problem(why, { retryMs: RETRY_MS });
  }
  return problem(
    "The server cannot be connected to by WebSocket. If there is a proxy before it, let it pass the header Upgrade.",
    { retryMs: RETRY_MS },
  );
}
