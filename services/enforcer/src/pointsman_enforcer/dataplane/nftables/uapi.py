# SPDX-License-Identifier: Apache-2.0
"""The numbers of the kernel's nf_tables interface that we use, named as in <linux/netfilter/nf_tables.h>.

Spelled out here, and not taken from a library, because importing one costs the enforcer 20 MB of memory.
"""

from __future__ import annotations

from typing import Final

# <linux/netlink.h>
NETLINK_NETFILTER: Final = 12
SOL_NETLINK: Final = 270
NETLINK_ADD_MEMBERSHIP: Final = 1
NETLINK_CAP_ACK: Final = 10
NETLINK_EXT_ACK: Final = 11
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLM_F_REQUEST: Final = 0x1
NLM_F_MULTI: Final = 0x2
NLM_F_ACK: Final = 0x4
NLM_F_DUMP_INTR: Final = 0x10
NLM_F_CAPPED: Final = 0x100
NLM_F_ACK_TLVS: Final = 0x200
NLM_F_DUMP: Final = 0x300
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
NLM_F_APPEND: Final = 0x800
NLMSGERR_ATTR_MSG: Final = 1
NLMSGERR_ATTR_OFFS: Final = 2
NLA_F_NESTED: Final = 0x8000
SO_ATTACH_FILTER: Final = 26
SO_SNDBUFFORCE: Final = 32
SO_RCVBUFFORCE: Final = 33

# <linux/netfilter/nfnetlink.h>
NFNL_MSG_BATCH_BEGIN: Final = 0x10
NFNL_MSG_BATCH_END: Final = 0x11
NFNL_SUBSYS_NFTABLES: Final = 10
NFNLGRP_NFTABLES: Final = 7

# Message types (enum nf_tables_msg_types).
NFT_MSG_NEWTABLE: Final = 0
NFT_MSG_GETTABLE: Final = 1
NFT_MSG_DELTABLE: Final = 2
NFT_MSG_NEWCHAIN: Final = 3
NFT_MSG_GETCHAIN: Final = 4
NFT_MSG_DELCHAIN: Final = 5
NFT_MSG_NEWRULE: Final = 6
NFT_MSG_DELRULE: Final = 8
NFT_MSG_NEWSET: Final = 9
NFT_MSG_GETSET: Final = 10
NFT_MSG_DELSET: Final = 11
NFT_MSG_NEWSETELEM: Final = 12
NFT_MSG_GETSETELEM: Final = 13
NFT_MSG_DELSETELEM: Final = 14
NFT_MSG_NEWGEN: Final = 15
NFT_MSG_GETGEN: Final = 16

# Attributes.
NFTA_LIST_ELEM: Final = 1
NFTA_GEN_ID: Final = 1
NFTA_GEN_PROC_PID: Final = 2
NFTA_GEN_PROC_NAME: Final = 3
NFTA_TABLE_NAME: Final = 1
NFTA_TABLE_FLAGS: Final = 2
NFTA_TABLE_USERDATA: Final = 6
NFTA_CHAIN_TABLE: Final = 1
NFTA_CHAIN_NAME: Final = 3
NFTA_CHAIN_HOOK: Final = 4
NFTA_CHAIN_POLICY: Final = 5
NFTA_CHAIN_TYPE: Final = 7
NFTA_CHAIN_USERDATA: Final = 12
NFTA_HOOK_HOOKNUM: Final = 1
NFTA_HOOK_PRIORITY: Final = 2
NFTA_RULE_TABLE: Final = 1
NFTA_RULE_CHAIN: Final = 2
NFTA_RULE_EXPRESSIONS: Final = 4
NFTA_RULE_USERDATA: Final = 7
NFTA_SET_TABLE: Final = 1
NFTA_SET_NAME: Final = 2
NFTA_SET_FLAGS: Final = 3
NFTA_SET_KEY_TYPE: Final = 4
NFTA_SET_KEY_LEN: Final = 5
NFTA_SET_DATA_TYPE: Final = 6
NFTA_SET_DATA_LEN: Final = 7
NFTA_SET_DESC: Final = 9
NFTA_SET_ID: Final = 10
NFTA_SET_TIMEOUT: Final = 11
NFTA_SET_USERDATA: Final = 13
NFTA_SET_DESC_SIZE: Final = 1
NFTA_SET_DESC_CONCAT: Final = 2
NFTA_SET_FIELD_LEN: Final = 1
NFTA_SET_ELEM_LIST_TABLE: Final = 1
NFTA_SET_ELEM_LIST_SET: Final = 2
NFTA_SET_ELEM_LIST_ELEMENTS: Final = 3
NFTA_SET_ELEM_KEY: Final = 1
NFTA_SET_ELEM_DATA: Final = 2
NFTA_SET_ELEM_FLAGS: Final = 3
NFTA_SET_ELEM_TIMEOUT: Final = 4
NFTA_SET_ELEM_EXPIRATION: Final = 5
NFTA_SET_ELEM_USERDATA: Final = 6
NFTA_SET_ELEM_KEY_END: Final = 10
NFTA_DATA_VALUE: Final = 1
NFTA_DATA_VERDICT: Final = 2
NFTA_VERDICT_CODE: Final = 1
NFTA_VERDICT_CHAIN: Final = 2
NFTA_EXPR_NAME: Final = 1
NFTA_EXPR_DATA: Final = 2

NFTA_DYNSET_SET_NAME: Final = 1
NFTA_DYNSET_OP: Final = 3
NFTA_DYNSET_SREG_KEY: Final = 4
NFTA_DYNSET_SREG_DATA: Final = 5
NFTA_DYNSET_TIMEOUT: Final = 6

# Set flags and element flags.
NFT_SET_INTERVAL: Final = 0x4
NFT_SET_MAP: Final = 0x8
NFT_SET_TIMEOUT: Final = 0x10
NFT_SET_EVAL: Final = 0x20
NFT_SET_CONCAT: Final = 0x80
NFT_SET_ELEM_INTERVAL_END: Final = 0x1
NFT_DATA_VERDICT: Final = 0xFFFFFF00

# What a rule does to a set.
NFT_DYNSET_OP_UPDATE: Final = 1
NFT_DYNSET_OP_DELETE: Final = 2

# Verdicts.
NF_DROP: Final = 0
NF_ACCEPT: Final = 1
NFT_JUMP: Final = -3
NFT_GOTO: Final = -4
NFT_RETURN: Final = -5

# Registers: the verdict, four of 16 bytes, and the same memory as sixteen of 4 bytes from NFT_REG32_00.
NFT_REG_VERDICT: Final = 0
NFT_REG32_00: Final = 8

# Hooks and priorities.
NF_INET_PRE_ROUTING: Final = 0
NF_INET_LOCAL_OUT: Final = 3
NF_INET_POST_ROUTING: Final = 4
PRIORITY_DSTNAT: Final = -100
PRIORITY_SRCNAT: Final = 100

# What nft stores in *_USERDATA so that it can print what the kernel does not need to know (libnftnl/udata.h).
UDATA_TABLE_COMMENT: Final = 0
UDATA_CHAIN_COMMENT: Final = 0
UDATA_RULE_COMMENT: Final = 0
UDATA_SET_KEYBYTEORDER: Final = 0
UDATA_SET_DATABYTEORDER: Final = 1
UDATA_SET_KEY_TYPEOF: Final = 3
UDATA_SET_DATA_TYPEOF: Final = 4
UDATA_SET_DATA_INTERVAL: Final = 6
UDATA_SET_COMMENT: Final = 7
UDATA_ELEM_COMMENT: Final = 0
UDATA_COMMENT_BYTES_MAX: Final = 128
