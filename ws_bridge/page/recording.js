// A recording as a source of packets: decoded by the browser, then played at its pace or handed over at once.

const PACKET_S = 0.02;
const MAX_BYTES = 500_000_000;

/** Decodes a file to 16-bit mono at `rate`. */
export async function decode(file, rate) {
  if (file.size > MAX_BYTES) {
    throw new Error(`${file.name} is larger than ${MAX_BYTES / 1e6} MB, which is more than a browser decodes well.`);
  }
  let audio;
  try {
    audio = await new OfflineAudioContext(1, 1, rate).decodeAudioData(await file.arrayBuffer());
  } catch {
    throw new Error(`This browser cannot decode ${file.name}. WAV, MP3, FLAC and Ogg work in most.`);
  }
  const samples = new Int16Array(audio.length);
  const channels = Array.from({ length: audio.numberOfChannels }, (_, index) => audio.getChannelData(index));
  for (let i = 0; i < samples.length; i++) {
    let sum = 0;
    for (const channel of channels) sum += channel[i];
    const value = Math.round((sum / channels.length) * 32768);
    samples[i] = Math.max(-32768, Math.min(32767, value));
  }
  return samples;
}

export class Recording {
  /** `samples` as `decode` gives them; `atPace`: whether they are played as they are handed over. */
  constructor(samples, rate, atPace) {
    this.samples = samples;
    this.rate = rate;
    this.isLive = atPace;
    this.done = 0;
  }

  /** Hands packets to `onPacket`, and calls `onEnd` after the last. */
  async open(onPacket, onEnd) {
    if (!this.isLive) {
      onPacket(this.samples);
      onEnd();
      return;
    }
    this.play();
    const size = Math.round(this.rate * PACKET_S);
    const started = performance.now();
    this.timer = setInterval(() => {
      // A page in the background is woken seldom, and catches up.
      const due = Math.min(this.samples.length, ((performance.now() - started) * this.rate) / 1000);
      while (this.done + size <= due) onPacket(this.samples.subarray(this.done, (this.done += size)));
      if (due === this.samples.length) {
        clearInterval(this.timer);
        onPacket(this.samples.subarray(this.done));
        onEnd();
      }
    }, 1000 * PACKET_S);
  }

  play() {
    this.context = new AudioContext({ sampleRate: this.rate });
    const buffer = this.context.createBuffer(1, this.samples.length, this.rate);
    buffer.copyToChannel(Float32Array.from(this.samples, (sample) => sample / 32768), 0);
    const player = this.context.createBufferSource();
    player.buffer = buffer;
    player.connect(this.context.destination);
    player.start();
  }

  close() {
    clearInterval(this.timer);
    return (this.closed ??= Promise.resolve(this.context?.close()));
  }
}
