// Compiles the contracts to artifacts/<Name>.json. With --check it writes nothing, compares with what is
// there and exits with 1 if anything differs.
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

const require = createRequire(import.meta.url);
const root = import.meta.dirname;
const modules = path.join(root, "node_modules");
const outDir = path.join(root, "artifacts");

// `dir` holds the sources and `files` are named relative to it. Those names go into the metadata hash at the
// end of Uniswap's bytecode, so they and the settings have to be Uniswap's own (see README.md).
const uniswapSettings = { optimizer: { enabled: true, runs: 999999 }, evmVersion: "istanbul" };
const units = [
  {
    compiler: "solc",
    dir: root,
    files: {
      "src/Token.sol": ["Token"],
      "src/MultiHop.sol": ["Hop"],
      "src/Chameleon.sol": ["Cell", "Chameleon", "Drifter"],
      "src/Factory.sol": ["Factory", "Child"],
      "src/EnvProbe.sol": ["EnvProbe"],
      "src/Book.sol": ["Book"],
    },
    settings: {
      optimizer: { enabled: true, runs: 200 },
      evmVersion: "prague",
      metadata: { bytecodeHash: "none" },
    },
  },
  {
    compiler: "solc-0.5.16",
    dir: path.join(modules, "@uniswap/v2-core"),
    prefix: "@uniswap/v2-core/",
    files: {
      "contracts/UniswapV2Factory.sol": ["UniswapV2Factory"],
      "contracts/UniswapV2Pair.sol": ["UniswapV2Pair"],
    },
    settings: uniswapSettings,
  },
  {
    compiler: "solc-0.6.6",
    dir: path.join(modules, "@uniswap/v2-periphery"),
    prefix: "@uniswap/v2-periphery/",
    files: {
      "contracts/UniswapV2Router02.sol": ["UniswapV2Router02"],
      "contracts/test/WETH9.sol": ["WETH9"],
    },
    settings: uniswapSettings,
  },
];

/** Compiles one unit; returns its artefacts. Warnings are shown for our own contracts only. */
function compile({ compiler, dir, prefix = "", files, settings }) {
  const solc = require(compiler);
  const load = (name) => readFileSync(path.join(name.startsWith("@") ? modules : dir, name), "utf8");
  const input = {
    language: "Solidity",
    sources: Object.fromEntries(Object.keys(files).map((name) => [name, { content: load(name) }])),
    settings: {
      ...settings,
      outputSelection: { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"] } },
    },
  };
  const output = JSON.parse(solc.compile(JSON.stringify(input), { import: (name) => ({ contents: load(name) }) }));

  const errors = (output.errors ?? []).filter((e) => e.severity === "error");
  if (errors.length > 0) throw new Error(errors.map((e) => e.formattedMessage).join("\n"));
  const selfdestructDeprecated = "5159"; // used knowingly, in Child
  for (const e of output.errors ?? []) {
    if (!prefix && e.errorCode !== selfdestructDeprecated) console.warn(e.formattedMessage);
  }

  return Object.entries(files).flatMap(([file, names]) =>
    names.map((contractName) => {
      const { abi, evm } = output.contracts[file][contractName];
      return {
        contractName,
        sourceName: prefix + file,
        compiler: solc.version(),
        settings,
        abi,
        bytecode: "0x" + evm.bytecode.object,
        deployedBytecode: "0x" + evm.deployedBytecode.object,
      };
    }),
  );
}

/** The router computes pair addresses from a hash written in its source: it must be that of our pair. */
function checkPairHash(artifacts) {
  const { keccak256 } = require("js-sha3");
  const bytecodeOf = (name) => artifacts.find((a) => a.contractName === name).bytecode.slice(2);
  const hash = keccak256(Buffer.from(bytecodeOf("UniswapV2Pair"), "hex"));
  if (!bytecodeOf("UniswapV2Router02").includes(hash)) {
    throw new Error(`UniswapV2Router02 does not hold the init code hash of UniswapV2Pair, 0x${hash}`);
  }
  console.log(`pair init code hash 0x${hash}`);
}

/** Names the artefacts in which the committed text is not the compiled one. */
function differences(texts) {
  const committed = existsSync(outDir) ? readdirSync(outDir) : [];
  const unlike = [...texts].flatMap(([file, text]) => {
    if (!committed.includes(file)) return `${file}: missing`;
    return readFileSync(path.join(outDir, file), "utf8") === text ? [] : `${file}: differs`;
  });
  return [...unlike, ...committed.filter((file) => !texts.has(file)).map((file) => `${file}: not built from anything`)];
}

const artifacts = units.flatMap(compile);
checkPairHash(artifacts);
const texts = new Map(artifacts.map((a) => [`${a.contractName}.json`, JSON.stringify(a, null, 2) + "\n"]));

if (process.argv.includes("--check")) {
  const found = differences(texts);
  for (const line of found) console.error(`artifacts/${line}`);
  if (found.length > 0) {
    console.error("artifacts are not what the sources compile to: run `node build.mjs` and commit the result");
    process.exitCode = 1;
  } else {
    console.log(`${texts.size} artifacts up to date`);
  }
} else {
  mkdirSync(outDir, { recursive: true });
  for (const [file, text] of texts) writeFileSync(path.join(outDir, file), text);
  console.log(`${texts.size} artifacts written`);
}
