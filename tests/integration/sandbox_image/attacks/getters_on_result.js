// A result that is evaluated while it is being serialised.
async function attack(check, found, foreign) {
  return {
    get a() {
      check(this, 'g');
      return 1;
    },
    toJSON: function() {
      check(this, 'tj');
      check(arguments.callee.caller, 'cc');
      try {
        throw new Error('s');
      } catch (e) {
        check(e.stack, 'st');
      }
      return found.length ? found : 'ok';
    }
  };
}
