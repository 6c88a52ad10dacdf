"""`realm-ds prepare`: its verbs put together, each in a file of its own."""

from realm_ds.cli.common import group
from realm_ds.cli.prepare_corpus import prepare_corpus
from realm_ds.cli.prepare_demo import prepare_demo_data
from realm_ds.cli.prepare_inspect import prepare_inspect
from realm_ds.cli.prepare_pretrain import prepare_pretrain
from realm_ds.cli.prepare_qa import prepare_qa
from realm_ds.cli.prepare_tokenizer import prepare_tokenizer

prepare = group("Make tar shards, vocabulary and question files.")
prepare.command("demo")(prepare_demo_data)
prepare.command("tokenizer")(prepare_tokenizer)
prepare.command("corpus")(prepare_corpus)
prepare.command("pretrain")(prepare_pretrain)
prepare.command("qa")(prepare_qa)
prepare.command("inspect")(prepare_inspect)
