// Runs on the browser's audio thread: gathers samples into packets of 16-bit PCM.

class Packets extends AudioWorkletProcessor {
  constructor({ processorOptions: { size } }) {
    super();
    this.size = size;
    this.packet = new Int16Array(size);
    this.filled = 0;
    this.wanted = true;
    // Any message asks for what is left, and for the end.
    this.port.onmessage = () => {
      this.hand(this.packet.slice(0, this.filled));
      this.wanted = false;
      this.port.postMessage(null);
    };
  }

  hand(packet) {
    if (packet.length) this.port.postMessage(packet, [packet.buffer]);
    this.packet = new Int16Array(this.size);
    this.filled = 0;
  }

  process([[channel]]) {
    if (!this.wanted) return false;
    for (const sample of channel ?? []) {
      this.packet[this.filled++] = Math.max(-32768, Math.min(32767, Math.round(sample * 32768)));
      if (this.filled === this.size) this.hand(this.packet);
    }
    return true;
  }
}

registerProcessor("packets", Packets);
