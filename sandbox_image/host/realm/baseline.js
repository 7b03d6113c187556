/*
 * Puts the realm back after a slice: the globals and the built-ins are again what they were when the job was
 * assigned. What modules do while they run for the first time belongs to the job and stays.
 *
 * It happens after every slice, so it has to be cheap: 250 objects with 1,700 properties in some hundredths of a
 * millisecond. Reading a property by its name in source text is ten times as fast as by a computed key, hence the
 * comparisons are generated; and listing an object's keys is slow, hence only the built-ins that work functions really
 * extend are compared key by key. Of the others, changed and removed values, changed prototypes and properties added by
 * assignment are seen.
 *
 * Not undone: what the job keeps in its own objects (variables around the work function, exports of modules,
 * arguments), hidden properties or accessors that a slice defines on rarer built-ins, and what it made permanent.
 */
(function baseline(lib) {
  'use strict';
  const { defineProperty, deleteProperty, getOwnPropertyDescriptor, getPrototypeOf, hasOwn, ownKeys } = lib;
  const { Array, Error, Function, Map, Number, Object, Promise, Set, String } = lib;
  /** Compared key by key. */
  const EXACT = [
    lib.global, Array, Array.prototype, Error, Error.prototype, Function.prototype, Map.prototype, Number.prototype, Object.prototype, Promise,
    Promise.prototype, Set.prototype, String.prototype,
  ];
  const JOB_STATE = { __proto__: null, require: true, module: true, bravojs: true };

  /** A built-in object and what it should look like. */
  class Holder {
    constructor(object) {
      this.object = object;
      this.exact = lib.arrayIndexOf(EXACT, object) >= 0;
    }

    remember() {
      this.prototype = getPrototypeOf(this.object);
      this.names = ownKeys(this.object);
      this.visible = countVisible(this.object);
      this.descriptors = [];
      for (let i = 0; i < this.names.length; i++)
        this.descriptors[i] = getOwnPropertyDescriptor(this.object, this.names[i]);
      this.compare = null;
      return this;
    }

    /** Generate the comparison. Done when it is first needed, which is after the job's first slice. */
    prepare() {
      let source = '';
      this.values = [];
      /** Positions of what cannot be compared by a plain read. */
      this.others = [];
      for (let i = 0; i < this.names.length; i++) {
        const name = this.names[i];
        if (!hasOwn(this.descriptors[i], 'value') || (typeof name === 'string' && !isIdentifier(name))) {
          this.others[this.others.length] = i;
          continue;
        }
        const { value } = this.descriptors[i];
        // NaN, which equals nothing, is a constant wherever it is a built-in.
        if (value !== value)
          continue;
        const access = typeof name === 'symbol' ? `[names[${i}]]` : `.${name}`;
        source += `if (object${access} !== values[${this.values.length}]) return false;\n`;
        this.values[this.values.length] = value;
      }
      this.compare = new lib.Function('object', 'values', 'names', `'use strict';\n${source}return true;`);
    }

    isIntact() {
      try {
        const { object } = this;
        if (this.compare === null)
          this.prepare();
        return getPrototypeOf(object) === this.prototype && this.compare(object, this.values, this.names)
          && countVisible(object) === this.visible && (!this.exact || this.isExactlyIntact());
      } catch {
        // A getter of the slice stands where a value was.
        return false;
      }
    }

    isExactlyIntact() {
      if (ownKeys(this.object).length !== this.names.length)
        return false;
      for (let i = 0; i < this.others.length; i++) {
        const at = this.others[i];
        if (!isEqual(getOwnPropertyDescriptor(this.object, this.names[at]), this.descriptors[at]))
          return false;
      }
      return true;
    }

    putBack() {
      lib.setPrototypeOf(this.object, this.prototype);
      const known = new lib.Map();
      for (let i = 0; i < this.names.length; i++) {
        lib.mapSet(known, this.names[i], true);
        if (!isEqual(getOwnPropertyDescriptor(this.object, this.names[i]), this.descriptors[i]))
          defineProperty(this.object, this.names[i], this.descriptors[i]);
      }
      const names = ownKeys(this.object);
      for (let i = 0; i < names.length; i++) {
        if (!lib.mapHas(known, names[i]) && !deleteProperty(this.object, names[i]))
          defineProperty(this.object, names[i], { __proto__: null, value: undefined });
      }
    }
  }

  function countVisible(object) {
    let count = 0;
    for (const name in object)
      count++;
    return count;
  }

  function isEqual(now, before) {
    return now !== undefined && lib.is(now.value, before.value) && now.get === before.get && now.set === before.set
      && now.writable === before.writable && now.enumerable === before.enumerable;
  }

  /** Not `caller` and its kin, whose reading throws. */
  function isIdentifier(name) {
    return name !== 'caller' && name !== 'arguments' && lib.regExpExec(/^[A-Za-z_$][A-Za-z0-9_$]*$/, name) !== null;
  }

  /** Everything that can be reached from the globals by properties and prototypes, and has properties of its own. */
  function builtIns() {
    const found = [];
    const seen = new lib.Map();
    const visit = (object) => {
      if (object === null || (typeof object !== 'object' && typeof object !== 'function') || lib.mapHas(seen, object))
        return;
      lib.mapSet(seen, object, true);
      const names = ownKeys(object);
      // Thousands of functions have only these two, which nothing reads.
      const isPlain = typeof object === 'function' && names.length <= 2 && hasOwn(object, 'name') && hasOwn(object, 'length');
      if (!isPlain)
        found[found.length] = new Holder(object);
      visit(getPrototypeOf(object));
      for (let i = 0; i < names.length; i++) {
        if (object === lib.global && JOB_STATE[names[i]] !== undefined)
          continue;
        const descriptor = getOwnPropertyDescriptor(object, names[i]);
        if (hasOwn(descriptor, 'value'))
          visit(descriptor.value);
      }
    };
    visit(lib.global);
    const hidden = [
      [][lib.symbolIterator](), new lib.Map().entries(), new lib.Set().values(), ''[lib.symbolIterator](), ''.matchAll(/x/g),
      function* generator() {}, async function* asyncGenerator() {}, async () => {},
    ];
    for (let i = 0; i < hidden.length; i++)
      visit(getPrototypeOf(hidden[i]));
    return found;
  }

  let holders = [];
  let remembered = false;

  lib.findBuiltIns = () => { holders = builtIns(); };

  /** From now on, this is how the realm should look. */
  lib.rememberBaseline = () => {
    for (let i = 0; i < holders.length; i++)
      holders[i].remember();
    remembered = true;
  };

  lib.restoreBaseline = () => {
    if (!remembered)
      return;
    for (let i = 0; i < holders.length; i++) {
      if (!holders[i].isIntact())
        holders[i].putBack();
    }
  };

  /** Run a part of the job's set-up in the middle of a slice: what it changes stays, what the slice had changed does not. */
  lib.keepChangesOf = (step) => {
    if (!remembered)
      return step();
    const before = [];
    for (let i = 0; i < holders.length; i++)
      before[i] = holders[i].isIntact() ? null : new Holder(holders[i].object).remember();
    try {
      return step();
    } finally {
      for (let i = 0; i < holders.length; i++)
        adopt(holders[i], before[i]);
    }
  };

  function adopt(holder, before) {
    if (before === null) {
      if (!holder.isIntact())
        holder.remember();
      return;
    }
    if (before.isIntact())
      return;
    // The slice had been here as well: take over property by property.
    const after = new Holder(holder.object).remember();
    holder.putBack();
    for (let i = 0; i < after.names.length; i++) {
      const at = lib.arrayIndexOf(before.names, after.names[i]);
      if (at < 0 || !isEqual(after.descriptors[i], before.descriptors[at]))
        defineProperty(holder.object, after.names[i], after.descriptors[i]);
    }
    holder.remember();
    after.putBack();
  }
});
