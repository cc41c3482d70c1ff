#!/usr/bin/env bash
# What SoX makes of speech at other sample rates and of G.711 bytes, for tests/unit/recognition/test_audio_sox.py: tests/unit/recognition/golden/sox.
# Needs espeak-ng and sox (Debian packages); the tests need neither. Made with SoX 14.4.2 and eSpeak NG 1.51.
set -euo pipefail
cd "$(dirname "$0")/sox"

# Speech of 11 kHz bandwidth, so that what 16 kHz cannot hold has to be removed; at each rate as a client would send it.
wide=$(mktemp --suffix .wav)
trap 'rm -f "$wide"' EXIT
espeak-ng -v en-us -s 175 -w "$wide" "six fresh fish at eighteen pounds"
for rate in 8000 11025 22050 44100 48000; do
  sox -D "$wide" -b 16 "speech-$rate.flac" gain -n -6 rate -v "$rate" trim 0 1.5
  sox -D "speech-$rate.flac" -b 24 "speech-$rate-at-16000.flac" rate -v 16000
done

# Every G.711 byte, and speech, decoded to 16-bit little-endian.
for law in mu-law a-law; do
  python3 -c 'import sys; sys.stdout.buffer.write(bytes(range(256)))' >"every.$law"
  sox -D speech-8000.flac -t raw -e "$law" -b 8 "speech.$law"
  for name in every speech; do
    sox -D -t raw -r 8000 -c 1 -e "$law" -b 8 "$name.$law" -t raw -e signed -b 16 -L "$name.$law.s16"
  done
done
