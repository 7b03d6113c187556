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

const pause = new Int32Array(new SharedArrayBuffer(4));
let lines = '';
let flushed = 0;

exports.line = function line(text) {
  if (lines.length + text.length > FULL)
    exports.flush();
  if (text.length > FULL) {
    // Apart from the others: a line may be nearly as long as a string can be.
    write(Buffer.from(text));
    write(Buffer.from('\n'));
  } else
    lines += `${text}\n`;
};

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
