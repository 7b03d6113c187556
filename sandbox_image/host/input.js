'use strict';
/* Lines in: splits the bytes of stdin, whatever the chunks. A line ends with a newline; an unfinished one is dropped. */

const { internalBinding } = require('internal/test/binding');
const { StringDecoder } = require('string_decoder');

const STDIN = 0;
const NEWLINE = 10;

/** Call `onLine` with every line of stdin, `onPause` after the last line of each chunk, `onEnd` at the end. */
exports.read = function read(onLine, onPause, onEnd) {
  // A long line is decoded piece by piece: a quarter of a gigabyte need not be in memory as bytes and as text.
  const decoder = new StringDecoder('utf8');
  let begun = '';
  let isBegun = false;
  chunks((chunk) => {
    let from = 0;
    for (let end = chunk.indexOf(NEWLINE); end >= 0; end = chunk.indexOf(NEWLINE, from)) {
      const last = chunk.subarray(from, end);
      const line = isBegun ? begun + decoder.end(last) : last.toString();
      begun = '';
      isBegun = false;
      from = end + 1;
      onLine(line);
    }
    if (from < chunk.length) {
      begun += decoder.write(chunk.subarray(from));
      isBegun = true;
    }
    onPause();
  }, onEnd);
};

/** A pipe is read by libuv's handle itself: a socket of net.js around it would be a fifth of the start-up time. */
function chunks(onChunk, onEnd) {
  const { kArrayBufferOffset, kReadBytesOrError, streamBaseState } = internalBinding('stream_wrap');
  const { Pipe, constants } = internalBinding('pipe_wrap');
  const pipe = new Pipe(constants.SOCKET);
  if (pipe.open(STDIN) !== 0) {
    process.stdin.on('data', onChunk).on('end', onEnd).on('error', onEnd);
    return;
  }
  pipe.onread = (memory) => {
    const size = streamBaseState[kReadBytesOrError];
    if (size > 0)
      onChunk(Buffer.from(memory, streamBaseState[kArrayBufferOffset], size));
    else if (size < 0)
      onEnd();
  };
  pipe.readStart();
}
