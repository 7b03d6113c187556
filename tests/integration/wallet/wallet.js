// Runs one operation of the wallet of the real dcp-client and prints what came of it as JSON.
// usage: node wallet.js <dcp-client> <operation> [argument as JSON]
const [dcpClient, operation, argument] = process.argv.slice(2);
const fs = require('fs');

const operations = {
  // A keystore made by dcp-client: what a file of it holds, and its secret.
  async make({ passphrase, privateKey, label, file }) {
    const wallet = require('dcp/wallet');
    const key = privateKey ? new wallet.PrivateKey(privateKey) : null;
    const keystore = await new wallet.Keystore(key, passphrase);
    if (label) keystore.label = label;
    fs.writeFileSync(file, JSON.stringify(keystore), { mode: 0o600 });
    await keystore.unlock(passphrase, 60);
    return { address: String(keystore.address), privateKey: String(await keystore.getPrivateKey()) };
  },

  // wallet.get / wallet.getId: found by name in the resource directory.
  async open({ name, passphrase, id }) {
    const wallet = require('dcp/wallet');
    wallet.passphrasePrompt = async () => passphrase;
    const keystore = await (id ? wallet.getId() : wallet.get(name));
    await keystore.unlock(passphrase, 60);
    const privateKey = await keystore.getPrivateKey();
    return { address: String(keystore.address), label: keystore.label, privateKey: String(privateKey) };
  },

  // Which forms of an address it accepts, and how it prints them.
  async addresses(forms) {
    const { Address } = require('dcp/wallet');
    return forms.map((form) => {
      try { return String(new Address(form)); } catch { return null; }
    });
  },

  // Signatures over texts, made with a private key.
  async sign({ privateKey, bodies }) {
    const { PrivateKey } = require('dcp/wallet');
    const key = new PrivateKey(privateKey);
    return Promise.all(bodies.map(async (body) => JSON.parse(await key.makeSignedMessage(body))));
  },
};

require(dcpClient)
  .init()
  .then(() => operations[operation](JSON.parse(argument)))
  .then((result) => process.stdout.write(JSON.stringify({ result }), () => process.exit(0)))
  .catch((error) => {
    process.stdout.write(JSON.stringify({ error: { message: error.message, code: error.code } }), () => process.exit(0));
  });
