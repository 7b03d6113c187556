// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

/// Distributed compute credits on an Ethereum chain (ERC-20, 18 decimals).
/// The owner makes them, up to a cap fixed at the start. What is sent to the address of a Bank is a deposit there.
contract DCC {
    string public constant name = "Distributed Compute Credits";
    string public constant symbol = "DCC";
    uint8 public constant decimals = 18;

    address public immutable owner;
    uint256 public immutable cap;
    uint256 public totalSupply;
    mapping(address => uint256) public balanceOf;
    mapping(address => mapping(address => uint256)) public allowance;

    event Transfer(address indexed from, address indexed to, uint256 value);
    event Approval(address indexed owner, address indexed spender, uint256 value);

    error NotOwner();
    error BeyondCap();
    error NoSuchRecipient();
    error BalanceTooLow(uint256 balance, uint256 needed);
    error AllowanceTooLow(uint256 allowed, uint256 needed);

    constructor(uint256 most) {
        owner = msg.sender;
        cap = most;
    }

    function mint(address to, uint256 value) external {
        if (msg.sender != owner) revert NotOwner();
        if (to == address(0)) revert NoSuchRecipient();
        if (value > cap - totalSupply) revert BeyondCap();
        totalSupply += value;
        balanceOf[to] += value;
        emit Transfer(address(0), to, value);
    }

    function transfer(address to, uint256 value) external returns (bool) {
        _move(msg.sender, to, value);
        return true;
    }

    function approve(address spender, uint256 value) external returns (bool) {
        allowance[msg.sender][spender] = value;
        emit Approval(msg.sender, spender, value);
        return true;
    }

    function transferFrom(address from, address to, uint256 value) external returns (bool) {
        uint256 allowed = allowance[from][msg.sender];
        if (allowed < value) revert AllowanceTooLow(allowed, value);
        if (allowed != type(uint256).max) allowance[from][msg.sender] = allowed - value;
        _move(from, to, value);
        return true;
    }

    function _move(address from, address to, uint256 value) private {
        // Neither can give anything back: the zero address, and this contract.
        if (to == address(0) || to == address(this)) revert NoSuchRecipient();
        uint256 balance = balanceOf[from];
        if (balance < value) revert BalanceTooLow(balance, value);
        balanceOf[from] = balance - value;
        balanceOf[to] += value;
        emit Transfer(from, to, value);
    }
}
