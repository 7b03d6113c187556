'use strict';
/*
 * The hooks by which V8 calls back into Node from inside job code. Each of Node's own would hand the job an object of
 * the host's realm: a promise (import()), an error (a stack that cannot be formatted). They are replaced by functions
 * of the job's realm.
 */
const { internalBinding } = require('internal/test/binding');
const errors = internalBinding('errors');
const moduleWrap = internalBinding('module_wrap');
const taskQueue = internalBinding('task_queue');

/** Run promise jobs until there are none. */
exports.runMicrotasks = taskQueue.runMicrotasks;

exports.install = function install({ stackOf, refuseImport }) {
  errors.setPrepareStackTraceCallback(stackOf);
  moduleWrap.setImportModuleDynamicallyCallback(refuseImport);
  // A rejection that nobody handles is the job's affair; Node would look at the reason and end the process.
  taskQueue.setPromiseRejectCallback(() => {});
  process.setUncaughtExceptionCaptureCallback(() => process.reallyExit(70));
};
