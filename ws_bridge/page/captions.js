// The transcript as other programs want it.

const LINE_CHARS = 42;
const LINES = 2;
const LONGEST_MS = 7000;
const PAUSE_MS = 700;
const SENTENCE_END = /[.?!…。？！।؟]["'”’»)\]]*$/u;
/** Short words stay readable for so long, unless the next caption begins. */
const SHORTEST_MS = 1000;

export const asText = (segments) => segments.map(({ text }) => `${text}\n`).join("");

export const asJson = (segments) => `${JSON.stringify({ segments }, null, 2)}\n`;

/** SubRip: numbered captions of two short lines, which end at pauses and sentences. */
export function asSrt(segments) {
  const cues = segments.flatMap(cut);
  return cues
    .map(({ start_ms, end_ms, words }, index) => {
      const latest = cues[index + 1]?.start_ms ?? Infinity;
      const end = Math.max(end_ms, Math.min(start_ms + SHORTEST_MS, latest));
      return `${index + 1}\n${clock(start_ms)} --> ${clock(end)}\n${wrap(words).join("\n")}\n`;
    })
    .join("\n");
}

function cut({ text, start_ms, end_ms, words }) {
  if (!words.length) return [{ start_ms, end_ms, words: text.split(" ") }];
  const cues = [];
  for (const word of words) {
    const cue = cues.at(-1);
    const fits =
      cue &&
      !(lasted(cue, word) && (word.start_ms - cue.end_ms >= PAUSE_MS || SENTENCE_END.test(cue.words.at(-1)))) &&
      word.end_ms - cue.start_ms <= LONGEST_MS &&
      wrap([...cue.words, word.word]).length <= LINES;
    if (fits) {
      cue.words.push(word.word);
      cue.end_ms = word.end_ms;
    } else {
      cues.push({ start_ms: word.start_ms, end_ms: word.end_ms, words: [word.word] });
    }
  }
  return cues;
}

/** Whether a caption that ends before the word has been there long enough to be read. */
const lasted = (cue, word) => word.start_ms - cue.start_ms >= SHORTEST_MS;

function wrap(words) {
  const lines = [];
  for (const word of words) {
    const line = lines.at(-1);
    if (line !== undefined && line.length + 1 + word.length <= LINE_CHARS) lines[lines.length - 1] = `${line} ${word}`;
    else lines.push(word);
  }
  return lines;
}

function clock(ms) {
  const two = (value) => String(Math.floor(value)).padStart(2, "0");
  const s = ms / 1000;
  return `${two(s / 3600)}:${two((s / 60) % 60)}:${two(s % 60)},${String(Math.floor(ms % 1000)).padStart(3, "0")}`;
}
