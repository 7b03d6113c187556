'use strict';
/*
 * Lines out. Written synchronously, several in one write: under load each write costs the reader a wake-up, and a
 * program that blocks while its reader is slow needs no other flow control.
 */
const fs = require('fs');
const { performance } = require('perf_hooks');

const STDOUT = 1;
/** A finished line waits this long (ms) for others at most, as long as the host gets to run. */
const LINGER = 4;
const FULL = 64 * 1024;
const PIECE = 1024 * 1024;

const pause = new Int32Array(new SharedArrayBuffer(4));
let lines = '';
let flushed = 0;

exports.line = function line(text) {
  if (lines.length + text.length > FULL)
    exports.flush();
  if (text.length > FULL)
    writeLong(text);
  else
    lines += `${text}\n`;
};

/** Piece by piece: a line may be nearly as long as a string can be. */
function writeLong(text) {
  for (let at = 0; at < text.length;) {
    let end = Math.min(at + PIECE, text.length);
    const code = text.charCodeAt(end - 1);
    if (end < text.length && code >= 0xd800 && code < 0xdc00)
      end++;
    write(Buffer.from(text.slice(at, end)));
    at = end;
  }
  write(Buffer.from('\n'));
}

exports.flush = function flush() {
  flushed = performance.now();
  if (lines === '')
    return;
  const bytes = Buffer.from(lines);
  lines = '';
  write(bytes);
};

exports.flushIfDue = function flushIfDue() {
  if (lines !== '' && performance.now() - flushed >= LINGER)
    exports.flush();
};

function write(bytes) {
  for (let at = 0; at < bytes.length;) {
    try {
      at += fs.writeSync(STDOUT, bytes, at);
    } catch (error) {
      if (error.code !== 'EAGAIN')
        process.reallyExit(error.code === 'EPIPE' ? 0 : 74);
      // The pipe is full and whoever made it made it non-blocking.
      Atomics.wait(pause, 0, 0, 1);
    }
  }
}
