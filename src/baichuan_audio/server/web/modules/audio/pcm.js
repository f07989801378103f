/** Samples between the shapes they travel in: float32 in [-1, 1], 16-bit little-endian, base64, WAV. */

export const SAMPLE_RATE = 24000;

export function toInt16(samples) {
  const result = new Int16Array(samples.length);
  for (let i = 0; i < samples.length; i++) {
    result[i] = Math.round(Math.max(-1, Math.min(1, samples[i])) * 32767);
  }
  return result;
}

/** base64 of 16-bit little-endian samples -> float32; an odd last byte is dropped. */
export function fromBase64(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const samples = new Float32Array(bytes.length >> 1);
  for (let i = 0; i < samples.length; i++) samples[i] = view.getInt16(2 * i, true) / 32768;
  return samples;
}

export function toBase64(int16) {
  const bytes = new Uint8Array(int16.buffer, int16.byteOffset, int16.byteLength);
  let text = "";
  for (let i = 0; i < bytes.length; i += 4096) text += String.fromCharCode(...bytes.subarray(i, i + 4096));
  return btoa(text);
}

/** Loudness for the eye: 0 below -60 dBFS, 1 at full scale, even steps in decibels between. */
export function level(samples) {
  let sum = 0;
  for (const value of samples) sum += value * value;
  const decibels = 10 * Math.log10(sum / Math.max(1, samples.length) + 1e-12);
  return Math.max(0, Math.min(1, 1 + decibels / 60));
}

/** @param {Int16Array} interleaved samples of all channels in turn */
export function wavFile(interleaved, channels, sampleRate = SAMPLE_RATE) {
  const header = new DataView(new ArrayBuffer(44));
  const ascii = (offset, text) => [...text].forEach((c, i) => header.setUint8(offset + i, c.charCodeAt(0)));
  ascii(0, "RIFF");
  header.setUint32(4, 36 + interleaved.byteLength, true);
  ascii(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, 1, true);
  header.setUint16(22, channels, true);
  header.setUint32(24, sampleRate, true);
  header.setUint32(28, sampleRate * channels * 2, true);
  header.setUint16(32, channels * 2, true);
  header.setUint16(34, 16, true);
  ascii(36, "data");
  header.setUint32(40, interleaved.byteLength, true);
  return new Blob([header, interleaved], { type: "audio/wav" });
}
