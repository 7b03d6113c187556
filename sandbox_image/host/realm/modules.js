/*
 * CommonJS Modules/2.0 as DCP packages use it: sources call module.declare([dependencies], factory), identifiers
 * are resolved against the module's own folder, the require path, or the top.
 */
(function modules(lib) {
  'use strict';
  const { Error, hasOwn, arrayPush } = lib;
  /** Declared and not yet run: id → {dependencies, factory}. Null prototypes: ids are chosen by packages. */
  const declared = { __proto__: null };
  /** Exports of modules that have run. */
  const memo = { __proto__: null };
  const paths = [];
  let loading = null;

  function canonical(path) {
    const parts = lib.split(path, '/');
    const kept = [];
    if (parts[0] === '')
      arrayPush(kept, '');
    for (let i = 0; i < parts.length; i++) {
      if (parts[i] === '' || parts[i] === '.')
        continue;
      if (parts[i] !== '..')
        arrayPush(kept, parts[i]);
      else if (kept.length === 0)
        throw new Error(`Invalid module path: ${path}`);
      else
        kept.length -= 1;
    }
    return lib.arrayJoin(kept, '/');
  }

  function folder(id) {
    const at = lib.lastIndexOfString(id, '/');
    return at <= 0 ? '.' : lib.sliceString(id, 0, at);
  }

  function resolve(from, identifier) {
    if (typeof identifier !== 'string')
      throw new Error(`Invalid module identifier: ${typeof identifier}`);
    if (identifier === '')
      return '';
    if (identifier[0] === '/')
      return canonical(identifier);
    if (lib.startsWith(identifier, './') || lib.startsWith(identifier, '../'))
      return canonical(`${from}/${identifier}`);
    if (identifier[0] !== '.') {
      for (let i = 0; i < paths.length; i++) {
        const id = `${paths[i]}/${identifier}`;
        if (id in memo || id in declared)
          return canonical(id);
      }
    }
    return canonical(`./${identifier}`);
  }

  function exportsOf(from, identifier) {
    const id = resolve(from, identifier);
    if (!(id in memo) && id in declared)
      lib.keepChangesOf(() => run(id));
    if (!(id in memo))
      throw new Error(`Module '${identifier}' is not available.`);
    return memo[id];
  }

  function run(id) {
    const { dependencies, factory } = declared[id];
    delete declared[id];
    const module = moduleObject(id, dependencies);
    memo[id] = {};
    lib.defineProperty(module, 'exports', {
      __proto__: null, enumerable: true, configurable: true,
      get: () => memo[id],
      set: (exports) => { memo[id] = exports; },
    });
    factory(requireFor(folder(id), dependencies), memo[id], module);
  }

  function moduleObject(id, dependencies) {
    const deps = {};
    eachLabel(dependencies, (label, identifier) => { deps[label] = () => exportsOf(folder(id), identifier); });
    return { id, dependencies, deps, declare, provide };
  }

  /** Dependencies are identifiers, or objects that give identifiers labels. */
  function eachLabel(dependencies, visit) {
    for (let i = 0; i < dependencies.length; i++) {
      if (dependencies[i] === null || typeof dependencies[i] !== 'object')
        continue;
      const labels = lib.keys(dependencies[i]);
      for (let k = 0; k < labels.length; k++)
        visit(labels[k], dependencies[i][labels[k]]);
    }
  }

  function requireFor(from, dependencies) {
    const labels = { __proto__: null };
    eachLabel(dependencies, (label, identifier) => { labels[label] = identifier; });
    const require = (identifier) => exportsOf(from, typeof identifier === 'string' && identifier in labels ? labels[identifier] : identifier);
    require.id = (identifier) => resolve(from, identifier);
    require.isMemoized = (id) => id in memo || id in declared;
    require.memoize = (id, needs, factory) => { declared[id] ??= { dependencies: needs, factory }; };
    require.resolve = (identifier) => {
      const id = resolve(from, identifier);
      if (require.isMemoized(id))
        return id;
      const error = new Error(`Cannot find module '${identifier}'`);
      error.code = 'MODULE_NOT_FOUND';
      throw error;
    };
    require.paths = paths;
    return require;
  }

  function declare(dependencies, factory) {
    if (loading === null)
      throw new Error('module.declare: no module is being loaded');
    const plain = typeof dependencies === 'function';
    declared[loading] = { dependencies: plain ? [] : dependencies, factory: plain ? dependencies : factory };
  }

  /** Nothing is fetched once the job runs: what it needs must be among its dependencies. */
  function provide(dependencies, callback, onError) {
    if (lib.missingModules(dependencies).length === 0)
      callback?.();
    else if (typeof onError === 'function')
      onError();
    else
      throw new Error('module.provide: modules can only be had by naming them as dependencies of the job');
  }

  /** Canonical ids of the dependencies that are not here yet. */
  lib.missingModules = (dependencies) => {
    const ids = [];
    const add = (identifier) => {
      const id = resolve('.', identifier);
      if (!(id in memo) && !(id in declared))
        arrayPush(ids, id);
    };
    for (let i = 0; i < dependencies.length; i++) {
      if (typeof dependencies[i] === 'string')
        add(dependencies[i]);
    }
    eachLabel(dependencies, (label, identifier) => add(identifier));
    return ids;
  };

  /** Evaluate a group of modules {package: {file: source}}: each declares itself. */
  lib.addModules = (group) => {
    const packages = lib.keys(group);
    for (let i = 0; i < packages.length; i++) {
      const files = lib.keys(group[packages[i]]);
      for (let k = 0; k < files.length; k++) {
        loading = `${packages[i]}/${files[k]}`;
        try {
          lib.evaluate(group[packages[i]][files[k]], loading);
        } finally {
          loading = null;
        }
      }
    }
  };

  lib.addRequirePaths = (more) => {
    for (let i = 0; i < more.length; i++)
      arrayPush(paths, more[i]);
  };

  lib.globals({
    require: requireFor('.', []),
    module: { id: '', dependencies: [], deps: {}, paths: [], declare, provide },
    bravojs: { mainModuleDir: '.', paths },
  });
});
