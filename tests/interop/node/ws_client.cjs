// Drives `ws` against the bridge as its protocol is documented.
"use strict";

const WebSocket = require("ws");
const { main, paced } = require("./common.cjs");

function hear(given, file) {
  return new Promise((resolve, reject) => {
    const heard = { finals: [], tags: [], interims: 0, error: null, close: null };
    const socket = new WebSocket(given.bridge, { headers: given.headers, ca: given.ca });
    const say = (message) => socket.send(JSON.stringify(message));
    socket.on("error", reject);
    socket.on("open", async () => {
      say({ op: "init", sid: "node", sr: 16000, ...file.config });
      await paced(file, given.live, (piece) => {
        if (socket.readyState !== WebSocket.OPEN) return;
        if (piece === null) say({ op: "finalize", tag: "now" });
        else socket.send(piece);
      });
      if (socket.readyState === WebSocket.OPEN) say({ op: "close", sid: "node" });
    });
    socket.on("message", (data, binary) => {
      if (binary) return reject(new Error("a binary message"));
      const message = JSON.parse(data.toString());
      if (message.op === "final") {
        heard.finals.push(message.text);
        heard.tags.push(message.tag ?? "");
      } else if (message.op === "interim") heard.interims += 1;
      else heard.error = message;
    });
    socket.on("close", (code) => resolve({ ...heard, close: code }));
  });
}

main(["ws"], hear);
