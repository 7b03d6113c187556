'use strict';
/*
 * The Evaluator: runs a job's work function for one slice after the other, in a realm of its own, and speaks the
 * evaluator line protocol on stdin and stdout.
 *
 * Some flags of Node are part of it (see flags.json). Started without them, it replaces itself with a process that
 * has them.
 */
const flags = require('./flags.json');

if (flags.every((flag) => process.execArgv.includes(flag)))
  require('./evaluator.js').start();
else
  process.execve(process.execPath, [process.execPath, ...flags, __filename], process.env);
