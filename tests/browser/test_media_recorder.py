"""What a real browser's MediaRecorder makes of its microphone is recognized as it comes."""

from __future__ import annotations

import base64
import json

import pytest
from playwright.async_api import Browser

from tests.browser.chromium import SPOKEN, visit
from tests.support.audio import cut
from tests.support.bridge import CLOSE, Bridge, talk
from tests.support.compressed import decoded

RECORD = """
async (enc) => {
  const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  const stream = await navigator.mediaDevices.getUserMedia({ audio });
  const socket = new WebSocket(location.origin.replace(/^http/, "ws") + "/");
  await new Promise((resolve, reject) => { socket.onopen = resolve; socket.onerror = reject; });
  socket.send(JSON.stringify({ op: "init", sid: "call-17", enc }));
  const recorder = new MediaRecorder(stream, { mimeType: "audio/webm;codecs=opus" });
  const sent = [], messages = [];
  const closed = new Promise((resolve) => { socket.onclose = (event) => resolve(event.code); });
  socket.onmessage = (event) => {
    const message = JSON.parse(event.data);
    messages.push(message);
    if (message.text.includes("martin") && recorder.state === "recording") recorder.stop();
  };
  recorder.ondataavailable = ({ data }) => { sent.push(data); socket.send(data); };
  recorder.onstop = () => socket.send(JSON.stringify({ op: "close", sid: "call-17" }));
  recorder.start(100);
  const code = await closed;
  stream.getTracks().forEach((track) => track.stop());
  const url = await new Promise((resolve) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.readAsDataURL(new Blob(sent));
  });
  return { code, messages, packets: sent.length, recording: url.split(",")[1] };
}
"""


@pytest.mark.parametrize("enc", ["webm_opus", "auto"])
async def test_a_recorder_s_packets_are_recognized_as_they_come(
    browser: Browser, bridge: Bridge, enc: str
) -> None:
    async with visit(browser, f"http://localhost:{bridge.port}/") as page:
        heard = await page.page.evaluate(RECORD, enc)
    assert SPOKEN.name == "clip5.wav"
    final = heard["messages"][-1]
    assert (heard["code"], final["op"]) == (1000, "final")
    # The recorder may begin within the first words and end within the last.
    assert "to call martin" in final["text"]
    assert heard["packets"] > 5
    # Words came while the recorder was at work, and the last ones are those of the whole recording.
    assert any(message["op"] == "interim" and message["text"] for message in heard["messages"])
    pcm = decoded(base64.b64decode(heard["recording"]), channels=1)
    init = json.dumps({"op": "init", "sid": "call-17", "sr": 48_000})
    raw = await talk(bridge, [init, *cut(pcm, 9_600), CLOSE])
    assert final["text"] == raw.final["text"]
