'use strict';
/* Lines in: splits the bytes of stdin, whatever the chunks. A line ends with a newline; an unfinished one is dropped. */

const NEWLINE = 10;

/** Call `onLine` with every line, `onPause` after the last line of each chunk, `onEnd` at the end. */
exports.read = function read(stream, onLine, onPause, onEnd) {
  let pieces = [];
  stream.on('data', (chunk) => {
    let from = 0;
    for (let end = chunk.indexOf(NEWLINE); end >= 0; end = chunk.indexOf(NEWLINE, from)) {
      const last = chunk.subarray(from, end);
      from = end + 1;
      if (pieces.length === 0)
        onLine(last.toString());
      else {
        pieces.push(last);
        const whole = Buffer.concat(pieces);
        pieces = [];
        onLine(whole.toString());
      }
    }
    if (from < chunk.length)
      pieces.push(chunk.subarray(from));
    onPause();
  });
  stream.on('end', onEnd);
  stream.on('error', onEnd);
};
