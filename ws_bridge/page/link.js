// One connection to the bridge, which carries one stream: sends what is on the tape, hands over results, tells how it ended.

const MAX_PACKET = 32_768;
const MAX_BUFFERED_BYTES = 512 * 1024;
const LOOK_AGAIN_MS = 20;
const NORMAL = 1000;

export class Link {
  /**
   * `init`: fields of the first message. `from`: position on the tape that the stream begins with.
   * `on.open()`, `on.result(message)`, `on.end({ code, reason, error, opened })`; after `on.end` nothing comes.
   * `on.behind()`: the network is so slow that the tape no longer holds what would have to be sent next.
   */
  constructor(url, init, tape, from, on) {
    this.init = init;
    this.tape = tape;
    this.position = from;
    this.on = on;
    this.opened = false;
    this.error = null;
    this.socket = new WebSocket(url);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.begin();
    this.socket.onmessage = ({ data }) => this.take(JSON.parse(data));
    this.socket.onclose = ({ code, reason }) => this.end(code, reason);
  }

  begin() {
    this.opened = true;
    this.socket.send(JSON.stringify({ op: "init", ...this.init }));
    this.on.open();
    this.pump();
  }

  take(message) {
    if (message.op === "error") this.error = message;
    else this.on.result(message);
  }

  end(code, reason) {
    clearTimeout(this.timer);
    this.on.end({ code, reason, error: this.error, opened: this.opened });
  }

  /** Sends what is new on the tape, as far as the network takes it. */
  pump() {
    clearTimeout(this.timer);
    // The server may be closing it at this moment; `end` will tell.
    if (this.socket.readyState !== WebSocket.OPEN || this.closing) return;
    while (this.position < this.tape.end) {
      if (this.socket.bufferedAmount > MAX_BUFFERED_BYTES) {
        this.timer = setTimeout(() => this.pump(), LOOK_AGAIN_MS);
        return;
      }
      // A stream has one clock, and no holes.
      if (this.position < this.tape.start) return this.on.behind();
      const packet = this.tape.read(this.position, MAX_PACKET);
      this.socket.send(packet);
      this.position += packet.length;
    }
    if (this.finishing) {
      this.closing = true;
      this.socket.send(JSON.stringify({ op: "close", sid: this.init.sid }));
    }
  }

  /** Says that nothing more comes onto the tape: what is on it is sent, and the last final follows. */
  finish() {
    this.finishing = true;
    this.pump();
  }

  /** Ends the connection without waiting for anything; `on.end` is not called. */
  drop() {
    this.on = { open() {}, result() {}, end() {}, behind() {} };
    clearTimeout(this.timer);
    this.socket.close(NORMAL);
  }
}
