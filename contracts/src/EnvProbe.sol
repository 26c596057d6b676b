// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

/// @notice Stores and logs the block values that a transaction sees.
contract EnvProbe {
    event Recorded(
        uint256 number,
        uint256 timestamp,
        uint256 prevrandao,
        uint256 baseFee,
        address coinbase,
        uint256 gasLimit,
        uint256 chainId
    );

    uint256 public number; // slot 0, and so on in this order
    uint256 public timestamp;
    uint256 public prevrandao;
    uint256 public baseFee; // wei
    address public coinbase;
    uint256 public gasLimit;
    uint256 public chainId;

    function record() external {
        number = block.number;
        timestamp = block.timestamp;
        prevrandao = block.prevrandao;
        baseFee = block.basefee;
        coinbase = block.coinbase;
        gasLimit = block.gaslimit;
        chainId = block.chainid;
        emit Recorded(number, timestamp, prevrandao, baseFee, coinbase, gasLimit, chainId);
    }
}
