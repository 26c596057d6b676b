// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @notice ERC-20 with 18 decimals for development and load tests.
/// @dev NOT for real value: anyone can mint any amount to anyone.
contract Token is ERC20 {
    /// @param supply Minted to the deployer, in base units (10^-18 token).
    constructor(string memory name, string memory symbol, uint256 supply) ERC20(name, symbol) {
        _mint(msg.sender, supply);
    }

    /// @notice Unrestricted on purpose, so that tests can fund any account.
    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }
}
