use std::marker::PhantomData;

use revm::{
    bytecode::opcode::CALL,
    context::{
        BlockEnv, CfgEnv, Context, Evm, LocalContext, TxEnv,
        result::{EVMError, HaltReason, InvalidTransaction},
    },
    handler::{
        EthFrame, EthPrecompiles, EvmTr, FrameResult, Handler, instructions::InstructionProvider,
        post_execution, pre_execution,
    },
    inspector::{Inspector, InspectorHandler},
    interpreter::{
        InitialAndFloorGas, Instruction, InstructionContext, InstructionExecResult,
        instruction_table,
        instructions::{GasTable, InstructionTable, contract, utility::IntoAddress},
        interpreter::EthInterpreter,
    },
    primitives::hardfork::SpecId,
};

use crate::{
    db::{Db, Missing},
    env::Settings,
    journal::Tracked,
};

pub(crate) type AtollContext<'v> =
    Context<&'v BlockEnv, TxEnv, &'v CfgEnv, Db<'v>, Tracked<'v>, (), LocalContext>;

pub(crate) type Frame = EthFrame<EthInterpreter>;

/// With or without somebody who looks on.
pub(crate) type AtollEvm<'v, I = ()> =
    Evm<AtollContext<'v>, I, Instructions<'v>, EthPrecompiles, Frame>;

pub(crate) type Error = EVMError<Missing, InvalidTransaction>;

/// Mainnet's rules, with or without the payment to the coinbase.
pub(crate) struct AtollHandler<'v, I = ()> {
    /// Nonce and balance of the caller do not matter: it need not be loaded.
    ignore_caller: bool,
    pays_coinbase: bool,
    evm: PhantomData<fn(AtollEvm<'v, I>)>,
}

impl<I> AtollHandler<'_, I> {
    pub fn for_tx(settings: &Settings) -> Self {
        let pays_coinbase = settings.pays_coinbase;
        Self { ignore_caller: false, pays_coinbase, evm: PhantomData }
    }

    pub fn for_call(ignore_caller: bool) -> Self {
        Self { ignore_caller, pays_coinbase: false, evm: PhantomData }
    }
}

impl<'v, I> Handler for AtollHandler<'v, I> {
    type Evm = AtollEvm<'v, I>;
    type Error = Error;
    type HaltReason = HaltReason;

    fn validate_against_state_and_deduct_caller(
        &self,
        evm: &mut Self::Evm,
        _gas: &mut InitialAndFloorGas,
    ) -> Result<(), Error> {
        if self.ignore_caller {
            return Ok(());
        }
        pre_execution::validate_against_state_and_deduct_caller(evm.ctx())
    }

    /// Paying makes every transaction write the same key.
    fn reward_beneficiary(
        &self,
        evm: &mut Self::Evm,
        result: &mut FrameResult,
    ) -> Result<(), Error> {
        if self.pays_coinbase {
            post_execution::reward_beneficiary(evm.ctx(), result.gas())?;
        }
        Ok(())
    }
}

impl<'v, I> InspectorHandler for AtollHandler<'v, I>
where
    I: Inspector<AtollContext<'v>, EthInterpreter>,
{
    type IT = EthInterpreter;
}

/// Mainnet's instructions, with [`call`] for CALL.
pub(crate) struct Instructions<'v> {
    gas: &'v GasTable,
}

type Table<'v> = InstructionTable<EthInterpreter, AtollContext<'v>>;

impl<'v> Instructions<'v> {
    const TABLE: Table<'v> = {
        let mut table: Table<'v> = instruction_table();
        table[CALL as usize] = Instruction::new(call);
        table
    };

    pub fn new(gas: &'v GasTable) -> Self {
        Self { gas }
    }
}

impl<'v> InstructionProvider for Instructions<'v> {
    type Context = AtollContext<'v>;
    type InterpreterTypes = EthInterpreter;

    fn instruction_table(&self) -> &Table<'v> {
        &Self::TABLE
    }

    fn gas_table(&self) -> &GasTable {
        self.gas
    }
}

/// CALL. With value, its cost depends on whether the callee is empty, also when the gas does not
/// reach as far as the transfer. Before EIP-161 it always depends on whether the callee exists.
fn call<'v>(
    context: InstructionContext<'_, AtollContext<'v>, EthInterpreter>,
) -> InstructionExecResult {
    if let [.., value, to, _gas] = context.interpreter.stack.data()[..]
        && (!value.is_zero() || context.host.cfg.spec < SpecId::SPURIOUS_DRAGON)
    {
        context.host.journaled_state.db.use_emptiness(to.into_address());
    }
    contract::call::<CALL, EthInterpreter, AtollContext<'v>>(context)
}
