// What the bridge says of itself and of the service behind it.

const PATIENCE_MS = 5000;

/** Where streams go: the page's own origin, and folder. */
export function streamUrl() {
  const url = new URL(".", location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}

/** Asks for `/info`; null if the bridge cannot be reached or does not know it. */
export async function askInfo(key = "") {
  try {
    const answer = await fetch(new URL("info", new URL(".", location.href)), {
      headers: key ? { Authorization: `Bearer ${key}` } : {},
      cache: "no-store",
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
    return await answer.json();
  } catch {
    return null;
  }
}
