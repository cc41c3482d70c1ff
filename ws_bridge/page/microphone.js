// The microphone as a source of packets.

const PACKET_S = 0.02;
const FLUSH_MS = 500;
const START_MS = 5000;
const NO_SOUND = "The sound of this browser does not start. Connect a loudspeaker or headphones and press Start again.";
const GONE = "The microphone has gone away. Connect it again and press Start.";

/** Whether the browser would hand out a microphone to this page at all: it does so over https and from localhost only. */
export const isAvailable = () => Boolean(navigator.mediaDevices?.getUserMedia);

export class Microphone {
  /** Live audio has a time: words can be late. */
  isLive = true;

  /** `rate`: samples per second that are wished for; `rate` of the opened microphone says what there is. */
  constructor(rate) {
    this.rate = rate;
  }

  /** Asks for the microphone, and hands every packet to `onPacket`; `onEnd` is called with a sentence if it goes away by itself. */
  async open(onPacket, onEnd) {
    this.media = await navigator.mediaDevices.getUserMedia({
      // Recognition wants what was said, not what a telephone would make of it.
      audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: true },
    });
    try {
      await this.listen(onPacket);
    } catch (error) {
      await this.shut();
      throw error;
    }
    this.media.getAudioTracks()[0].onended = () => onEnd(GONE);
    // A telephone that goes to sleep hears nothing. Not every browser lets a page ask.
    this.wake = navigator.wakeLock?.request("screen").catch(() => null);
  }

  async listen(onPacket) {
    const { context, input } = connect(this.media, this.rate);
    this.context = context;
    this.rate = context.sampleRate;
    await context.audioWorklet.addModule(new URL("worklet.js", import.meta.url));
    this.node = new AudioWorkletNode(context, "packets", {
      numberOfOutputs: 0,
      processorOptions: { size: Math.round(this.rate * PACKET_S) },
    });
    this.node.port.onmessage = ({ data }) => (data ? onPacket(data) : this.flushed?.());
    input.connect(this.node);
    // Some browsers run no audio on a machine that can play none, and never say so.
    const late = new Promise((_, fail) => setTimeout(() => fail(new Error(NO_SOUND)), START_MS));
    await Promise.race([context.resume(), late]);
  }

  /** Turns a microphone off that is open; returns once the last samples have been handed over. */
  close() {
    return (this.closed ??= this.shut());
  }

  async shut() {
    if (this.node) {
      // The audio thread may have stopped by itself.
      await new Promise((done) => {
        this.flushed = done;
        this.node.port.postMessage(null);
        setTimeout(done, FLUSH_MS);
      });
    }
    this.media?.getTracks().forEach((track) => track.stop());
    await this.context?.close();
    (await this.wake)?.release();
  }
}

/** Joins the microphone to an audio context of the wished rate where the browser converts rates, else of the sound card's. */
function connect(media, rate) {
  let context = new AudioContext({ sampleRate: rate });
  try {
    return { context, input: context.createMediaStreamSource(media) };
  } catch {
    context.close();
    context = new AudioContext();
    return { context, input: context.createMediaStreamSource(media) };
  }
}
