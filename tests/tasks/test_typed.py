"""Task types as objects: what they enqueue, what runs, and what is refused where they are registered."""

import asyncio
import contextlib
import copy
import functools
import inspect
import pickle
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import pytest

from boilerd import (
    AsyncClient,
    BoilerdError,
    ConfigError,
    InvalidPayloadError,
    InvalidTaskError,
    Message,
    ServeMux,
    Task,
    TaskInfo,
    current_task,
    retry,
)
from boilerd.tasks import payload_type
from boilerd.tasks.options import with_defaults
from boilerd.tasks.payload_type import PayloadType
from boilerd.testing import RecordingClient, run

if TYPE_CHECKING:
    from decimal import Context


@dataclass
class Mail:
    to: str
    copies: list[str] = field(default_factory=list)


class Old(msgspec.Struct, tag=True):
    name: str


class New(msgspec.Struct, tag=True):
    first: str


class Untagged(msgspec.Struct):
    name: str


class UntaggedToo(msgspec.Struct):
    first: str


class Secret:
    """No JSON value is one."""


@pytest.fixture
def mux() -> ServeMux:
    return ServeMux()


@pytest.fixture
def client() -> RecordingClient:
    """A client that does not know the mux."""
    return RecordingClient()


def stored(client: RecordingClient) -> list[tuple[str, Any]]:
    return [(task.type, task.payload) for task in client.tasks]


module_mux = ServeMux()


@module_mux.task("module:deliver", queue="mail")
def deliver(task: Task[Mail]) -> str:
    """Deliver it."""
    return task.payload.to


@module_mux.function("module:add")
def add(a: int, b: int = 1) -> int:
    return a + b


# --- One task


def test_a_task_type_is_called_as_the_function_that_it_was() -> None:
    task = Task(id="t", type="module:deliver", payload=Mail("ada"))

    assert deliver(task) == "ada"
    assert add(1, b=2) == 3
    assert (deliver.type, deliver.__qualname__, deliver.__doc__) == ("module:deliver", "deliver", "Deliver it.")
    assert str(inspect.signature(deliver)) == str(inspect.signature(deliver.__wrapped__))
    assert repr(deliver) == "<TaskType 'module:deliver' of deliver>"


def test_it_is_pickled_and_copied_as_functions_are_by_its_name() -> None:
    assert pickle.loads(pickle.dumps([deliver, add])) == [deliver, add]
    assert copy.deepcopy(deliver) is deliver


def test_what_it_enqueues_is_what_the_handler_gets(mux: ServeMux, client: RecordingClient) -> None:
    seen: list[Any] = []

    @mux.task("mail", payload=Mail)
    def handler(task: Task[Mail]) -> None:
        seen.append(task.payload)

    info = handler.enqueue(client, Mail("ada", ["bob"]), queue="low")

    assert (info.type, info.queue, info.payload) == ("mail", "low", Mail("ada", ["bob"]))
    assert stored(client) == [("mail", {"to": "ada", "copies": ["bob"]})]
    assert list(client.run_all(mux)) == [None]
    assert seen == [Mail("ada", ["bob"])]


def test_the_payloads_type_is_that_of_the_annotation(mux: ServeMux) -> None:
    @mux.task("given")
    def given(task: Task[Old | New]) -> Any:
        return task.payload

    @mux.task("text")
    def text(task: "Task[list[Mail]]") -> Any:
        return task.payload

    @mux.task("inner:text")
    def inner_text(task: "Task['Mail']") -> Any:
        return task.payload

    assert run(mux, "given", {"type": "New", "first": "Ada"}) == New("Ada")
    assert run(mux, "text", [{"to": "ada"}]) == [Mail("ada")]
    assert run(mux, "inner:text", {"to": "ada"}) == Mail("ada")


class Mailer:
    def send(self, task: Task[Mail]) -> Any:
        return task.payload

    def __call__(self, task: "Task[Mail]") -> Any:
        return task.payload


def with_session(session: object, task: Task[Mail]) -> Any:
    return task.payload


@pytest.mark.parametrize("handler", [Mailer().send, Mailer(), functools.partial(with_session, None)])
def test_methods_objects_and_partials_say_their_payload_too(
    mux: ServeMux, handler: Callable[[Task[Mail]], Any]
) -> None:
    made = mux.task("mail")(handler)

    assert run(mux, "mail", {"to": "ada"}) == Mail("ada")
    assert made(Task(id="t", type="mail", payload=Mail("bob"))) == Mail("bob")
    assert repr(made).startswith("<TaskType 'mail' of ")


class Timed(contextlib.ContextDecorator):
    """Decorates with a function of the library's module, where the names of this one are unknown."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def test_names_are_looked_up_where_they_are_written_whatever_decorates(mux: ServeMux) -> None:
    @mux.task("mail")
    @Timed()
    def send(task: "Task[Mail]") -> str:
        return task.payload.to

    @mux.function("all")
    @Timed()
    def send_all(mails: "list[Mail]") -> list[str]:
        return [mail.to for mail in mails]

    assert run(mux, "mail", {"to": "ada"}) == "ada"
    assert run(mux, "all", {"mails": [{"to": "ada"}]}) == ["ada"]
    assert (send.type, send_all.type) == ("mail", "all")


def untyped(task):  # type: ignore[no-untyped-def]
    return task.payload


def bare(task: Task) -> Any:
    return task.payload


def of_anything(task: Task[Any]) -> Any:
    return task.payload


def of_object(task: Task[object]) -> Any:
    return task.payload


@pytest.mark.parametrize("handler", [untyped, bare, of_anything, of_object, lambda task: task.payload])
def test_a_handler_that_says_nothing_of_its_payload_gets_what_json_has(
    mux: ServeMux, client: RecordingClient, handler: Callable[[Task], Any]
) -> None:
    made = mux.task("mail")(handler)
    made.enqueue(client, {"to": (1, 2)})

    assert list(client.run_all(mux)) == [{"to": [1, 2]}]


def test_an_async_handler_is_enqueued_from_asyncio_and_awaited(mux: ServeMux, client: RecordingClient) -> None:
    @mux.task("mail")
    async def handler(task: Task[Mail]) -> str:
        return task.payload.to

    @mux.function("add")
    async def total(a: int, b: int) -> int:
        return a + b

    async def main() -> list[TaskInfo]:
        calls = AsyncClient(client)
        return [
            await handler.aenqueue(calls, Mail("ada"), queue="low"),
            await total.task(1, b=2).aenqueue(calls, queue="low"),
            await calls.enqueue_message(handler.task(Mail("bob"))),
        ]

    infos = asyncio.run(main())

    assert [(info.type, info.queue) for info in infos] == [("mail", "low"), ("add", "low"), ("mail", "default")]
    assert list(client.run_all(mux)) == ["ada", 3, "bob"]


def test_a_payload_that_does_not_fit_is_refused_at_the_enqueue_whether_or_not_the_client_knows_the_mux(
    mux: ServeMux, client: RecordingClient
) -> None:
    @mux.task("mail")
    def handler(task: Task[Mail]) -> None: ...

    wrong: Any = {"to": 5}

    for each in (client, RecordingClient(mux=mux), RecordingClient(mux=ServeMux())):
        with pytest.raises(InvalidPayloadError, match=r"\$\.to: Expected `str`, got `int`"):
            handler.enqueue(each, wrong)
        with pytest.raises(InvalidPayloadError, match=r"^task \[1\] of many: payload: \$\.to"):
            each.enqueue_many([handler.task(Mail("ada")), handler.task(wrong)])
        assert each.tasks == []


def test_a_client_of_the_other_kind_or_none_is_told(mux: ServeMux, client: RecordingClient) -> None:
    deliver: Any = mux.task("mail")(bare)

    async def enqueue() -> None:
        async with AsyncClient.from_url("unix:///nowhere") as other:
            with pytest.raises(TypeError, match=r"^mail: enqueue\(\) takes a Client; with an AsyncClient, await aenq"):
                deliver.enqueue(other, 1)
        with pytest.raises(
            TypeError, match=r"^mail: aenqueue\(\) takes an AsyncClient; task .* is stored, .*enqueue\("
        ):
            await deliver.aenqueue(client, 1)

    asyncio.run(enqueue())
    with pytest.raises(TypeError, match=r"^mail: a Mail is no client; write enqueue\(client, payload\)"):
        deliver.enqueue(Mail("geheim"), client)


def test_an_object_in_the_place_of_a_type_or_a_message_is_told_what_to_give(
    mux: ServeMux, client: RecordingClient
) -> None:
    deliver: Any = mux.task("mail")(bare)
    told = r"a (TaskType|Message) is none; enqueue_message, enqueue_many and mux\.cron take a message, which \.task\("

    for wrong in (deliver, deliver.task(1)):
        with pytest.raises(InvalidTaskError, match=told):
            client.enqueue(wrong, 1)
    with pytest.raises(ConfigError, match=r"cron entry 'TaskType': task type: " + told):
        mux.cron("@daily", deliver, 1)
    nothing: Any
    for nothing in (deliver, {"to": "geheim"}):
        with pytest.raises(TypeError, match=r"^enqueue_message takes a message, .* and no (TaskType|dict)$"):
            client.enqueue_message(nothing)


def test_many_may_be_messages_and_pairs(mux: ServeMux, client: RecordingClient) -> None:
    @mux.task("mail", queue="mail")
    def handler(task: Task[Mail]) -> None: ...

    many: list[tuple[str, Any] | Message] = [
        handler.task(Mail("ada")), ("other", 1), add.task(1), Message("by:hand", [2]),
    ]  # fmt: skip

    answers = client.enqueue_many(iter(many), timeout=60)

    assert [answer.payload for answer in answers if not isinstance(answer, BoilerdError)] == [
        Mail("ada"), 1, {"a": 1}, [2],
    ]  # fmt: skip
    assert stored(client) == [
        ("mail", {"to": "ada", "copies": []}), ("other", 1), ("module:add", {"a": 1}), ("by:hand", [2]),
    ]  # fmt: skip
    assert [task.options.queue for task in client.tasks] == ["mail", "default", "default", "default"]
    assert {task.options.timeout_s for task in client.tasks} == {60}


def test_a_message_does_not_show_its_payload() -> None:
    assert repr(deliver.task(Mail("geheim"))) == "Message(type='module:deliver')"


def test_a_message_knows_the_type_of_the_result(mux: ServeMux) -> None:
    @mux.task("unknown")
    def unknown(task: Task) -> "Context":
        raise NotImplementedError

    assert deliver.task(Mail("ada")).result_type is str
    assert add.task(1).result_type is int
    assert unknown.task(None).result_type is Any
    assert Message("by:hand").result_type is Any


def test_the_type_of_a_result_is_made_once_for_all_that_are_waited_for(
    mux: ServeMux, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def make(kind: Any) -> PayloadType:
        made.append(kind)
        return PayloadType(kind)

    @mux.task("mail")
    def send(task: Task[str]) -> Mail:
        raise NotImplementedError

    monkeypatch.setattr(payload_type, "PayloadType", make)

    results = [send.task(name).decode_result({"to": name}) for name in ("ada", "bob")]

    assert results == [Mail("ada"), Mail("bob")]
    assert made == [Mail]


def test_one_function_may_have_several_types(mux: ServeMux, client: RecordingClient) -> None:
    @mux.task("mail:late", queue="late")
    @retry(max_retries=2)
    @mux.task("mail:now", queue="now")
    def send(given: Task[Mail]) -> str:
        return given.type

    @mux.function("sum:late")
    @retry(max_retries=3)
    @mux.function("sum:now")
    def total(a: int, b: int) -> int:
        return a + b

    send.enqueue(client, Mail("ada"))
    RecordingClient(mux=mux).enqueue("mail:now", {"to": "ada"})
    total.task(1, 2).enqueue(client)
    client.enqueue("sum:now", {"a": 1, "b": 3})

    assert list(client.run_all(mux)) == ["mail:late", 3, 4]
    assert [policy.max_retries for name in mux.patterns() if (policy := mux.policy(name))] == [2, 2, 3, 3]
    for name in mux.patterns():
        with pytest.raises(InvalidPayloadError):
            run(mux, name, {"to": 5, "a": "one"})


def test_a_result_is_decoded_as_the_type_that_the_handler_declares(mux: ServeMux) -> None:
    @mux.task("mails")
    async def mails(task: Task) -> list[Mail]:
        raise NotImplementedError

    @mux.task("secret")
    def secret(task: Task) -> Secret:
        raise NotImplementedError

    assert mails.task(None).decode_result([{"to": "ada"}]) == [Mail("ada")]
    assert secret.task(None).decode_result({"a": 1}) == {"a": 1}
    assert Message("by:hand").decode_result({"a": 1}) == {"a": 1}
    with pytest.raises(InvalidPayloadError, match=r"^result of mails: \$\[0\]: .*missing required field `to`"):
        mails.task(None).decode_result([{}])


# --- Retries


def test_a_retry_policy_may_stand_above_and_below(mux: ServeMux, client: RecordingClient) -> None:
    @retry(max_retries=3)
    @mux.task("above")
    def above(task: Task) -> None: ...

    @mux.task("below")
    @retry(max_retries=4)
    def below(task: Task) -> None: ...

    @retry(max_retries=5)
    @mux.function("above:function")
    def function_above() -> None: ...

    @mux.function("below:function")
    @retry(max_retries=6)
    def function_below() -> None: ...

    policies = {name: mux.policy(name) for name in mux.patterns()}
    infos = client.enqueue_many([above.task(0), below.task(0), function_above.task(), function_below.task()])

    assert {name: policy and policy.max_retries for name, policy in policies.items()} == {
        "above": 3, "below": 4, "above:function": 5, "below:function": 6,
    }  # fmt: skip
    assert [info.max_retries for info in infos if isinstance(info, TaskInfo)] == [3, 4, 5, 6]


# --- Options


def test_the_decorators_options_are_the_defaults_of_the_object_and_of_a_client_that_knows_the_mux(
    client: RecordingClient,
) -> None:
    knowing = RecordingClient(mux=module_mux)

    deliver.enqueue(client, Mail("by the object"))
    knowing.enqueue("module:deliver", {"to": "by the mux"})
    knowing.enqueue("module:deliver:again", {"to": "the same handler"})
    knowing.enqueue_many([("module:deliver", {"to": "one of many"}), ("module:other", 1)])
    client.enqueue("module:deliver", {"to": "by nobody"})

    assert [(task.type, task.options.queue) for task in client.tasks] == [
        ("module:deliver", "mail"), ("module:deliver", "default"),
    ]  # fmt: skip
    assert [(task.type, task.options.queue) for task in knowing.tasks] == [
        ("module:deliver", "mail"), ("module:deliver:again", "mail"), ("module:deliver", "mail"),
        ("module:other", "default"),
    ]  # fmt: skip


def test_an_option_of_the_enqueue_wins_over_that_of_the_decorator(client: RecordingClient) -> None:
    deliver.enqueue(client, Mail("ada"), queue="other")
    RecordingClient(mux=module_mux).enqueue_many([deliver.task(Mail("ada"))], queue="other")

    assert client.tasks[0].options.queue == "other"


NOON = datetime(2099, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("defaults", "given", "merged"),
    [
        ({"queue": "a", "timeout": 5}, {"queue": "b"}, {"queue": "b", "timeout": 5}),
        ({"process_in": 10}, {"process_at": NOON}, {"process_at": NOON}),
        ({"process_in": 10}, {"process_at": None}, {"process_in": 10, "process_at": None}),
        ({"unique": 60, "unique_until": "end"}, {"unique": None}, {"unique": None}),
        ({"unique": 60, "unique_until": "end"}, {"unique": 5}, {"unique": 5, "unique_until": "end"}),
        ({"unique": 60}, {"unique_until": "end"}, {"unique": 60, "unique_until": "end"}),
        ({"concurrency_key": "k", "concurrency_limit": 2}, {"concurrency_key": None}, {"concurrency_key": None}),
        ({}, {"unique_until": "end"}, {"unique_until": "end"}),
    ],
)
def test_defaults_give_way_with_what_they_belong_to(
    defaults: dict[str, Any], given: dict[str, Any], merged: dict[str, Any]
) -> None:
    assert with_defaults(defaults, given) == merged


def test_the_options_of_an_inner_mux_count(mux: ServeMux) -> None:
    mux.handle("module:", module_mux)
    client = RecordingClient(mux=mux)

    client.enqueue("module:deliver", {"to": "ada"})
    client.enqueue("module:add", {"a": 1})

    assert [task.options.queue for task in client.tasks] == ["mail", "default"]
    with pytest.raises(InvalidPayloadError):
        client.enqueue("module:add", {"a": "one"})


@pytest.mark.parametrize("decorator", ["task", "function"])
@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"quue": "low"}, TypeError, "unknown option 'quue', did you mean 'queue'"),
        ({"queue": "two words"}, InvalidTaskError, "two words"),
        ({"task_id": "one"}, InvalidTaskError, r"for 'mail': option 'task_id' is of one task; give it where the task"),
        ({"process_at": NOON}, InvalidTaskError, "'process_at' is of one task"),
        ({"deadline": NOON}, InvalidTaskError, "'deadline' is of one task"),
    ],
)
def test_options_that_no_tasks_can_share_are_no_defaults(
    mux: ServeMux, decorator: str, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        getattr(mux, decorator)("mail", **options)

    assert mux.patterns() == []


# --- Periodic tasks


def test_a_periodic_task_may_be_a_message(mux: ServeMux) -> None:
    mux.cron("@daily", deliver.task(Mail("boss")), timezone="Europe/Berlin", timeout=timedelta(minutes=1))
    mux.cron("@hourly", add.task(1), name="hourly")

    daily, hourly = mux.crons
    assert (daily.name, daily.task_type, daily.payload) == (
        "module-deliver",
        "module:deliver",
        {"to": "boss", "copies": []},
    )
    assert daily.options == {"queue": "mail", "timeout": timedelta(minutes=1)}
    assert (hourly.name, hourly.task_type, hourly.payload, hourly.options) == ("hourly", "module:add", {"a": 1}, {})


def test_a_type_that_inherits_no_headers_may_have_periodic_tasks(mux: ServeMux) -> None:
    @mux.task("report", queue="low", inherit=False)
    def report(task: Task[int]) -> None: ...

    mux.cron("@daily", report.task(1))

    assert [entry.options for entry in mux.crons] == [{"queue": "low"}]


def test_the_payload_of_a_periodic_message_must_fit(mux: ServeMux) -> None:
    wrong: Any = {"to": 5}

    with pytest.raises(ConfigError, match=r"^cron spec '@daily', task type module:deliver: payload: \$\.to"):
        mux.cron("@daily", deliver.task(wrong))

    assert mux.crons == []


# --- Declared parameters


def test_a_function_gets_its_arguments_by_name(mux: ServeMux, client: RecordingClient) -> None:
    @mux.function("send", queue="mail")
    def send(to: str, *, when: datetime, mails: list[Mail], copies: int = 1) -> list[Any]:
        return [to, when, mails, copies]

    info = send.task("ada", mails=[Mail("bob")], when=NOON).enqueue(client, timeout=60)
    send.task(to="ada", when=NOON, mails=[], copies=3).enqueue(client)

    assert info.queue == "mail"
    assert client.tasks[0].payload == {
        "to": "ada", "when": "2099-01-01T12:00:00Z", "mails": [{"to": "bob", "copies": []}],
    }  # fmt: skip
    assert list(client.run_all(mux)) == [["ada", NOON, [Mail("bob")], 1], ["ada", NOON, [], 3]]


def test_old_and_new_parameters_may_meet(mux: ServeMux) -> None:
    @mux.function("send")
    def send(to: str, copies: int = 1) -> list[Any]:
        return [to, copies]

    assert run(mux, "send", {"to": "ada"}) == ["ada", 1]
    assert run(mux, "send", {"to": "ada", "copies": 2, "of a later release": True}) == ["ada", 2]
    with pytest.raises(InvalidPayloadError, match="missing required field `to`"):
        run(mux, "send", {"copies": 2})


def test_a_default_may_stand_before_what_is_required_and_no_argument_is_shown(mux: ServeMux) -> None:
    @mux.function("send")
    def send(*, copies: int = 2, to: str) -> str:
        return f"{copies} to {to} by {current_task().payload!r}"

    told = run(mux, "send", {"to": "ada"})

    assert told.startswith("2 to ada by ")
    assert told.count("ada") == 1


def test_a_function_that_requires_nothing_takes_a_task_without_payload(mux: ServeMux, client: RecordingClient) -> None:
    @mux.function("tick")
    def tick() -> str:
        return "tock"

    @mux.function("count")
    def count(by: int = 1) -> int:
        return by

    tick.task().enqueue(client)
    client.enqueue("count")
    client.enqueue("count", {"by": 5})

    assert list(client.run_all(mux)) == ["tock", 1, 5]
    with pytest.raises(InvalidPayloadError):
        run(mux, "count", 5)


def test_the_rules_that_annotate_a_parameter_count(mux: ServeMux, client: RecordingClient) -> None:
    @mux.function("repeat")
    def repeat(times: Annotated[int, msgspec.Meta(ge=1)]) -> Annotated[int, msgspec.Meta(le=5)]:
        return times

    with pytest.raises(InvalidPayloadError, match=r"\$\.times: Expected `int` >= 1"):
        repeat.task(0).enqueue(client)
    with pytest.raises(InvalidPayloadError, match=r"^result of repeat: \$: Expected `int` <= 5"):
        repeat.task(1).decode_result(6)


def test_a_function_that_requires_something_takes_no_task_without_payload() -> None:
    with pytest.raises(InvalidPayloadError, match=r"^payload: \$: Expected `object`, got `null`$"):
        run(module_mux, "module:add", None)


def test_a_default_that_can_change_is_new_for_each_task(mux: ServeMux) -> None:
    @mux.function("collect")
    def collect(found: list[int] = [], mail: Mail = Mail("ada", ["bob"])) -> list[Any]:  # noqa: B006, B008
        found.append(1)
        mail.copies.append("eve")
        return [found, mail.copies]

    assert [run(mux, "collect") for _ in range(2)] == [[[1], ["bob", "eve"]]] * 2


def test_a_call_that_the_function_would_refuse_is_refused_before_it_is_enqueued(client: RecordingClient) -> None:
    call: Any = add.task

    wrong: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        ((), {}, r"^module:add: add\(a: int, b: int = 1\): missing a required argument: 'a'"),
        ((1, 2, 3), {}, "too many positional arguments"),
        ((1,), {"queue": "low"}, "got an unexpected keyword argument 'queue'"),
        ((1,), {"a": 2}, "multiple values for argument 'a'"),
    ]
    for arguments, named, match in wrong:
        with pytest.raises(TypeError, match=match):
            call(*arguments, **named)
    with pytest.raises(InvalidPayloadError, match=r"\$\.a"):
        call("one").enqueue(client)

    assert client.tasks == []


def passing_on(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that leaves the arguments as they are."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return ["wrapped", function(*args, **kwargs)]

    return wrapped


def test_a_decorator_that_passes_arguments_on_leaves_the_types_as_they_are(mux: ServeMux) -> None:
    mux.task("mail")(passing_on(deliver.__wrapped__))
    mux.function("add")(passing_on(passing_on(add.__wrapped__)))

    assert run(mux, "mail", {"to": "ada"}) == ["wrapped", "ada"]
    assert run(mux, "add", {"a": 1}) == ["wrapped", ["wrapped", 2]]
    with pytest.raises(InvalidPayloadError):
        run(mux, "add", {"a": "one"})


def test_an_async_function_is_awaited(mux: ServeMux) -> None:
    @mux.function("add")
    async def total(a: int, b: int = 2) -> int:
        await asyncio.sleep(0)
        return a + b

    called: Awaitable[int] = total(1)

    async def main() -> int:
        return await called

    assert run(mux, "add", {"a": 1}) == 3
    assert asyncio.run(main()) == 3


def test_a_parameter_may_have_any_name(mux: ServeMux) -> None:
    @mux.function("names")
    def names(self: int, id: int, _hidden: int, field: int = 4, type: str = "t", task: int = 6) -> list[Any]:  # noqa: A002
        return [self, id, _hidden, field, type, task]

    assert run(mux, "names", {"self": 1, "id": 2, "_hidden": 3}) == [1, 2, 3, 4, "t", 6]


# --- What is refused


def without_parameter() -> None: ...


def with_two(task: Task, session: object) -> None: ...


class Unbound:
    def deliver(self, task: Task[Mail]) -> None: ...

    def send(self, to: str) -> None: ...


def of_mail(mail: Mail) -> None: ...


def of_context(task: "Task[Context]") -> None: ...


def of_attribute(task: "Task[msgspec.Missing]") -> None: ...  # type: ignore[name-defined]


def of_secret(task: Task[Secret]) -> None: ...


def yielding(task: Task) -> Any:
    yield task


def renaming(function: Any) -> Any:
    """A decorator that takes something else than what it wraps."""

    @functools.wraps(function)
    def wrapped(job: Any) -> Any:
        return function(job)

    return wrapped


@pytest.mark.parametrize(
    ("handler", "match"),
    [
        (without_parameter, r"^handler for 'mail': without_parameter\(\) -> None cannot be called with \(task\)"),
        (with_two, r"cannot be called with \(task\): missing a required argument: 'session'"),
        (
            of_mail,
            r"'mail' of of_mail is Mail, and gets a Task; write mail: Task\[Mail\], or use mux\.function",
        ),
        (of_context, r"the annotation of 'task' in of_context is unknown here \(name 'Context' .* payload=$"),
        (of_attribute, r"unknown here \(.*Missing.*payload="),
        (of_secret, "nothing can be decoded as <class '.*Secret'>"),
        (Unbound.deliver, r"a required argument: 'task'; register the method of an object, as in mailer\.deliver$"),
        (yielding, "yielding has a yield"),
        (renaming(deliver.__wrapped__), r"a decorator of deliver takes \(job\) and wraps what takes \(task\)"),
        ("text", "'text' cannot be called"),
    ],
)
def test_what_cannot_be_a_handler_is_refused_where_it_is_registered(mux: ServeMux, handler: Any, match: str) -> None:
    with pytest.raises(TypeError, match=match):
        mux.task("mail")(handler)

    assert mux.patterns() == []


def test_a_payload_that_is_named_needs_no_annotation_that_is_known(mux: ServeMux) -> None:
    mux.task("mail", payload=Mail)(of_context)  # type: ignore[arg-type]

    with pytest.raises(InvalidPayloadError):
        run(mux, "mail", {"to": 5})


def positional(to: str, /) -> None: ...


def variable(*to: str) -> None: ...


def variable_names(**to: str) -> None: ...


def no_annotation(to) -> None: ...  # type: ignore[no-untyped-def]


def wrong_default(to: str = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013


def lost_default(to: str = Secret()) -> None: ...  # type: ignore[assignment]


def with_secret(secret: Secret) -> None: ...


def with_two_structs(to: Untagged | UntaggedToo) -> None: ...


def with_context(context: "Context") -> None: ...


def with_task(to: str, *, task: Task) -> None: ...


def by_place(function: Any) -> Any:
    @functools.wraps(function)
    def wrapped(*args: Any) -> Any:
        return function(*args)

    return wrapped


def by_nothing(function: Any) -> Any:
    @functools.wraps(function)
    def wrapped() -> Any:
        return function(1)

    return wrapped


def with_first(function: Any) -> Any:
    @functools.wraps(function)
    def wrapped(session: object, *args: Any, **arguments: Any) -> Any:
        return function(*args, **arguments)

    return wrapped


def generating(to: str) -> Any:
    yield to


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (positional, "^function for 'mail': parameter 'to' of positional is positional only; take out the '/'"),
        (variable, "parameter 'to' of variable stands for any number; declare each"),
        (variable_names, "parameter 'to' of variable_names stands for any number"),
        (no_annotation, "parameter 'to' of no_annotation has no annotation; give it the type"),
        (lambda to: None, "has no annotation"),
        (wrong_default, r"'to' of wrong_default has the default None, which is no str: \$: Expected `str`, got `null`"),
        (lost_default, "has the default <.*Secret.*>, which is no str: Secret has no JSON form"),
        (
            with_secret,
            "^function for 'mail': parameter 'secret' of with_secret: nothing can be decoded as <class '.*Secr",
        ),
        (with_two_structs, "parameter 'to' of with_two_structs: msgspec cannot read .*all Struct types must be tagged"),
        (Unbound.send, r"'self' of Unbound\.send has no annotation; register the method of an object, as in mailer\."),
        (with_context, "'context' in with_context is unknown here .*; import it outside of TYPE_CHECKING .* imported$"),
        (with_task, r"parameter 'task' of with_task is a task; leave it out, and call boilerd\.current_task\(\)"),
        (by_place(add.__wrapped__), r"add cannot be called with \(a=…, b=…\): "),
        (by_nothing(add.__wrapped__), r"a decorator of add takes \(\) and wraps what takes \(a, b\)"),
        (with_first(add.__wrapped__), r"a decorator of add takes \(session, \*args, \*\*arguments\) and wraps what"),
        (renaming(add.__wrapped__), r"a decorator of add takes \(job\) and wraps what takes \(a, b\)"),
        (generating, "generating has a yield"),
        ("text", "'text' cannot be called"),
    ],
)
def test_what_cannot_be_called_by_name_is_refused_where_it_is_registered(
    mux: ServeMux, function: Any, match: str
) -> None:
    with pytest.raises(TypeError, match=match):
        mux.function("mail")(function)

    assert mux.patterns() == []


def test_a_decorator_without_its_parentheses_says_how_it_is_written(mux: ServeMux) -> None:
    for register in (mux.task, mux.function):
        wrong: Any = register
        with pytest.raises(TypeError, match=r'of_mail without parentheses; write @mux\.\w+\("email:deliver"\)'):
            wrong(of_mail)


def test_a_type_that_is_taken_or_is_none_is_refused(mux: ServeMux) -> None:
    mux.task("mail")(bare)

    with pytest.raises(ValueError, match="pattern 'mail' has a handler already"):
        mux.function("mail")(add.__wrapped__)
    with pytest.raises(InvalidTaskError, match="task type 'two words'"):
        mux.task("two words")(bare)

    assert mux.patterns() == ["mail"]
