"""The command `serve`: the HTTP API."""

import argparse

from evoxtral.cli.arguments import OK, UsageError, add_model, add_weights, show_progress


def add_serve(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("serve", help="the same over HTTP")
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine only")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000")
    parser.add_argument("--max-megabytes", type=float, metavar="MB", help="largest file taken")
    parser.add_argument("--max-seconds", type=float, metavar="S", help="longest recording taken")
    parser.add_argument("--max-requests", type=int, metavar="N", help="requests under way, more are answered 503")
    parser.add_argument("--token-file", metavar="FILE", help="only these may ask: a line for each, TOKEN or NAME TOKEN")
    parser.add_argument("--per-minute", type=float, metavar="N", help="requests of one token, or address, a minute")
    parser.add_argument("--concurrent", type=int, metavar="N", help="requests of one token, or address, at a time")
    parser.add_argument("--allow-origin", action="append", metavar="URL", help="pages whose scripts may ask; * for all")
    parser.add_argument(
        "--alias", action="append", metavar="NAME[=VARIANT]", help="another model name, as whisper-1 in old programs"
    )
    add_model(parser)
    add_weights(parser)
    parser.set_defaults(command=_serve)


def _serve(args: argparse.Namespace) -> int:
    from evoxtral.model import checkpoints
    from evoxtral.serve import access, api

    show_progress(not args.quiet)
    asked = {
        "megabytes": args.max_megabytes,
        "seconds": args.max_seconds,
        "requests": args.max_requests,
        "per_minute": args.per_minute,
        "concurrent": args.concurrent,
    }
    asked = {name: value for name, value in asked.items() if value is not None}
    wrong = [name for name, value in asked.items() if value <= 0]
    if wrong:
        raise UsageError(f"A limit is above 0: {wrong[0]} is {asked[wrong[0]]}.")
    checkpoint = checkpoints.resolve(args.model, weights=args.weights, window=args.window)
    aliases = dict(alias.partition("=")[::2] for alias in args.alias or ())
    options = api.Options(
        access.read_tokens(args.token_file) if args.token_file else {},
        args.allow_origin or (),
        {name: variant or checkpoint.variants[-1] for name, variant in aliases.items()},
    )
    with api.address(args.host, args.port) as at:  # before the weights: what is wrong with it is known at once
        api.run(checkpoint, at, api.Limits(**asked), options)
    return OK
