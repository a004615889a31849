"""Client middleware, and headers that an enqueue takes over from the task whose handler makes it."""

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from boilerd import (
    AsyncClient,
    BoilerdError,
    BrokerUnavailableError,
    Client,
    Draft,
    DuplicateTaskError,
    Inspector,
    InvalidPayloadError,
    InvalidTaskError,
    QueueFullError,
    ServeMux,
    Task,
    TaskIdConflictError,
    TaskInfo,
    retry,
)
from boilerd.settings.definitions import Settings
from boilerd.tasks.current import CURRENT
from boilerd.testing import RecordingClient, run
from builders import pending
from support import Valkey

Answers = list[TaskInfo | BoilerdError]
TRACE = {"request_id": "r-1", "traceparent": "00-1", "tracestate": "a=1", "baggage": "b=1"}


@pytest.fixture
def recorder() -> RecordingClient:
    return RecordingClient(inherit_headers=["tenant-id"])


@contextmanager
def handling(**fields: Any) -> Iterator[None]:
    """As in the handler of such a task."""
    token = CURRENT.set(Task("t1", "test:outer", **fields))
    try:
        yield
    finally:
        CURRENT.reset(token)


def headers_of(recorder: RecordingClient) -> list[dict[str, str]]:
    return [dict(task.options.headers) for task in recorder.tasks]


# --- Inherited


def test_an_enqueue_in_a_handler_inherits_the_trace_and_what_the_client_names(recorder: RecordingClient) -> None:
    with handling(headers={**TRACE, "tenant-id": "7", "own": "x"}):
        recorder.enqueue("test:inner")
        recorder.enqueue("test:inner", headers={"traceparent": "00-2"})
        recorder.enqueue("test:inner", inherit=False, headers={"own": "y"})
        recorder.enqueue_many([("test:inner", 1)])
    recorder.enqueue("test:inner")

    inherited = {**TRACE, "tenant-id": "7"}
    assert headers_of(recorder) == [inherited, {**inherited, "traceparent": "00-2"}, {"own": "y"}, inherited, {}]


@pytest.mark.parametrize(
    ("fields", "payload", "request_id"),
    [
        ({"request_id": "of the payload"}, None, "of the payload"),
        ({"headers": {"request_id": "of the header"}, "request_id": "of the header"}, None, "of the header"),
        ({"headers": {"request_id": "r" * 500}, "request_id": "r" * 128}, None, "r" * 500),
        ({"request_id": "outer"}, {"request_id": "its own"}, None),
        ({"headers": {"request_id": "outer"}, "request_id": "outer"}, {"request_id": "its own"}, None),
        ({}, None, None),
    ],
)
def test_the_request_id_is_inherited_whichever_source_it_has_unless_the_payload_has_one(
    recorder: RecordingClient, fields: dict[str, Any], payload: Any, request_id: str | None
) -> None:
    with handling(**fields):
        recorder.enqueue("test:inner", payload)

    assert headers_of(recorder) == [{"request_id": request_id} if request_id else {}]


def test_a_chain_of_tasks_keeps_its_request_id_and_loses_what_is_a_tasks_own() -> None:
    client, mux, seen = RecordingClient(), ServeMux(), []

    @mux.handle("count:down")
    def down(task: Task) -> None:
        seen.append((task.request_id, dict(task.headers)))
        if task.payload["n"]:
            client.enqueue("count:down", {"n": task.payload["n"] - 1})

    client.enqueue("count:down", {"n": 2, "request_id": "r-1"}, headers={"own": "x"})
    list(client.run_all(mux))

    assert seen == [("r-1", {"own": "x"}), ("r-1", {"request_id": "r-1"}), ("r-1", {"request_id": "r-1"})]


def test_a_thread_inherits_where_it_runs_in_a_copy_of_the_context(recorder: RecordingClient) -> None:
    async def in_thread() -> None:
        await asyncio.to_thread(recorder.enqueue, "test:inner", 1)

    with handling(headers=TRACE):
        asyncio.run(in_thread())
        context = contextvars.copy_context()
        copied = threading.Thread(target=context.run, args=(recorder.enqueue, "test:inner", 2))
        copied.start()
        copied.join()

    assert headers_of(recorder) == [TRACE, TRACE]


def test_a_client_for_asyncio_inherits_from_the_task_of_its_caller(valkey: Valkey, connection: redis.Redis) -> None:
    async def of(request_id: str) -> None:
        CURRENT.set(Task("t1", "test:outer", headers={"request_id": request_id, "tenant-id": "7"}))
        await asyncio.gather(*[calls.enqueue("test:inner", task_id=f"{request_id}-{n}") for n in range(10)])
        await calls.enqueue_many([("test:inner", 1)], task_id=f"{request_id}-many")

    async def main() -> None:
        async with calls:
            await asyncio.gather(of("r-1"), of("r-2"))
            await calls.enqueue("test:inner", task_id="outside")

    calls = AsyncClient.from_url(valkey.url, inherit_headers=["tenant-id"])
    asyncio.run(main())

    inspector = Inspector(connection)
    for request_id in ("r-1", "r-2"):
        for end in (*range(10), "many"):
            assert inspector.task(f"{request_id}-{end}").headers == {"request_id": request_id, "tenant-id": "7"}
    assert inspector.task("outside").headers == {}


def test_the_settings_say_what_a_client_inherits(valkey: Valkey) -> None:
    settings = Settings(redis_url=valkey.url, inherit_headers=["tenant-id"])

    with handling(headers={"tenant-id": "7"}), Client.from_settings(settings) as client:
        task_id = client.enqueue("test:inner").id
        recorder = RecordingClient.from_settings(settings)
        recorder.enqueue("test:inner")

    with Inspector.from_url(valkey.url) as inspector:
        assert inspector.task(task_id).headers == {"tenant-id": "7"}
    assert headers_of(recorder) == [{"tenant-id": "7"}]


def test_what_is_to_be_inherited_must_be_a_list_of_names() -> None:
    with pytest.raises(TypeError, match="inherit_headers: 'tenant-id' is one text; give a list of names"):
        RecordingClient(inherit_headers="tenant-id")
    with pytest.raises(InvalidTaskError, match="header 'Tenant'"):
        RecordingClient(inherit_headers=["Tenant"])


def test_a_handler_under_test_gets_headers_that_it_cannot_change() -> None:
    mux, seen = ServeMux(), []

    @mux.handle("a:b")
    def handler(task: Task) -> None:
        seen.append((task.headers["request_id"], task.request_id))
        with pytest.raises(TypeError):
            task.headers["a"] = "b"  # type: ignore[index]

    run(mux, "a:b", headers={"request_id": "r-1"})

    assert seen == [("r-1", "r-1")]


# --- Middleware


def test_middleware_goes_around_the_push_once_for_an_enqueue_and_once_for_a_batch() -> None:
    mux, told = ServeMux(), []
    client = RecordingClient(mux=mux)
    mux.not_found(lambda _: None)

    def tells(name: str) -> Any:
        def middleware(drafts: list[Draft], push: Any) -> Answers:
            told.append(f"{name} {len(drafts)}")
            answers: Answers = push(drafts)
            told.append(f"{name} done")
            return answers

        return middleware

    client.use(tells("outer"), tells("inner"))
    mux.use_client(tells("mux"))
    info = client.enqueue("a:b", 1)
    answers = client.enqueue_many([("a:b", 2), ("a:b", 3)])

    done = ["inner done", "outer done", "mux done"]
    assert told == ["mux 1", "outer 1", "inner 1", *done, "mux 2", "outer 2", "inner 2", *done]
    assert [info.id, *(answer.id for answer in answers if isinstance(answer, TaskInfo))] == [
        task.id for task in client.tasks
    ]


def test_middleware_may_change_all_of_a_draft(recorder: RecordingClient) -> None:
    @recorder.use
    def change(drafts: list[Draft], push: Any) -> Any:
        for draft in drafts:
            assert (draft.options, draft.headers) == ({"queue": "default", "timeout": 7}, {**TRACE, "own": "x"})
            draft.type, draft.payload = "c:d", {"was": draft.payload}
            draft.options["queue"] = "low"
            draft.headers["span"] = "1"
            del draft.headers["baggage"]
        return push(drafts)

    with handling(headers=TRACE):
        info = recorder.enqueue("a:b", 1, queue="default", timeout=7, headers={"own": "x"})

    (task,) = recorder.tasks
    assert (info.type, info.queue, info.payload) == ("c:d", "low", {"was": 1})
    assert (task.type, task.payload, task.options.timeout_s) == ("c:d", {"was": 1}, 7)
    (headers,) = headers_of(recorder)
    assert headers.keys() == {"request_id", "traceparent", "tracestate", "own", "span"}


def test_no_draft_shares_its_options_or_headers_with_another_or_the_caller(recorder: RecordingClient) -> None:
    @recorder.use
    def number(drafts: list[Draft], push: Any) -> Any:
        for place, draft in enumerate(drafts):
            draft.headers["place"] = str(place)
            draft.options["task_id"] = f"t{place}"
        return push(drafts)

    given = {"own": "x"}
    recorder.enqueue_many([("a:b", 1), ("a:b", 2)], headers=given)

    assert [task.id for task in recorder.tasks] == ["t0", "t1"]
    assert headers_of(recorder) == [{"own": "x", "place": "0"}, {"own": "x", "place": "1"}]
    assert given == {"own": "x"}


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda draft: setattr(draft, "type", "no type"), InvalidTaskError),
        (lambda draft: setattr(draft, "payload", object()), InvalidPayloadError),
        (lambda draft: draft.options.update(queue="no queue"), InvalidTaskError),
        (lambda draft: draft.options.update(colour="low"), TypeError),
        (lambda draft: draft.headers.update(Tenant="7"), InvalidTaskError),
        (lambda draft: draft.headers.update({"a": 1}), InvalidTaskError),
    ],
)
def test_what_middleware_leaves_behind_is_checked_before_anything_is_sent(
    recorder: RecordingClient, spoil: Any, error: type[Exception]
) -> None:
    def middleware(drafts: list[Draft], push: Any) -> Any:
        spoil(drafts[-1])
        return push(drafts)

    recorder.use(middleware)

    with pytest.raises(error):
        recorder.enqueue("a:b", 1)
    with pytest.raises(error, match=r"^(task \[1\] of many: |unknown option)"):
        recorder.enqueue_many([("a:b", 1), ("a:b", 2)])
    assert recorder.tasks == []


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda drafts, push: None, "returned None for 2 drafts"),
        (lambda drafts, push: push(drafts[:1]), "returned 1 answers for 2 drafts"),
        (lambda drafts, push: push([drafts.pop()]), "returned 1 answers for 2 drafts"),
        (lambda drafts, push: [1, 2], "returned 2 answers for 2 drafts"),
        (lambda drafts, push: asyncio.sleep(0), "returned a coroutine for 2 drafts"),
    ],
)
def test_middleware_that_leaves_a_draft_without_an_answer_is_an_error_that_names_it(
    recorder: RecordingClient, answer: Any, told: str
) -> None:
    recorder.use(answer)

    with pytest.raises(TypeError, match=f"client middleware .*<lambda> {told}; it must return, for each, what"):
        recorder.enqueue_many([("a:b", 1), ("a:b", 2)])


@pytest.mark.parametrize(
    ("pushed", "told"),
    [
        (lambda draft: [{"number": 4711}], "dict among the drafts; give it Drafts"),
        (lambda draft: draft, "Draft in place of the drafts; give it a list of Drafts"),
        (lambda draft: None, "NoneType in place of the drafts; give it a list of Drafts"),
    ],
)
@pytest.mark.parametrize("inner", [0, 1])
def test_what_middleware_pushes_must_be_drafts(recorder: RecordingClient, pushed: Any, told: str, inner: int) -> None:
    recorder.use(lambda drafts, push: push(pushed(drafts[0])))
    recorder.use(*[lambda drafts, push: push(drafts)] * inner) if inner else None

    with pytest.raises(TypeError, match=rf"push\(drafts\) got {told}"):
        recorder.enqueue("a:b", 1)


@pytest.mark.parametrize("inner", [0, 1])
def test_middleware_may_push_what_can_be_iterated_once(recorder: RecordingClient, inner: int) -> None:
    recorder.use(lambda drafts, push: push(draft for draft in drafts))  # type: ignore[arg-type]
    recorder.use(*[lambda drafts, push: push(drafts)] * inner) if inner else None

    recorder.enqueue_many([("a:b", 1), ("a:b", 2)])

    assert [task.payload for task in recorder.tasks] == [1, 2]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda draft: draft.options.update(headers={}), "'headers' is none of its options; set draft.headers"),
        (lambda draft: draft.options.update(inherit=False), "'inherit' is none of its options"),
        (lambda draft: setattr(draft, "options", None), "its options are NoneType; give a dict"),
    ],
)
def test_the_options_of_a_draft_are_a_dict_without_headers(recorder: RecordingClient, spoil: Any, told: str) -> None:
    recorder.use(lambda drafts, push: [spoil(drafts[0]), push(drafts)][1])

    with pytest.raises(TypeError, match=f"^draft of 'a:b': {told}"):
        recorder.enqueue("a:b", 1)
    assert recorder.tasks == []


def test_no_error_of_middleware_holds_a_payload(recorder: RecordingClient) -> None:
    recorder.use(lambda drafts, push: drafts[0].payload)

    with pytest.raises(TypeError, match="returned a value of type dict for 1 drafts"):
        recorder.enqueue("a:b", {"number": 4711})


def test_many_that_are_none_are_none_for_middleware(recorder: RecordingClient) -> None:
    @recorder.use
    def look(drafts: list[Draft], push: Any) -> Any:
        return [drafts[0].headers, push(drafts)][1]

    assert recorder.enqueue_many([]) == []
    with pytest.raises(TypeError, match="unknown option 'colour'"):
        recorder.enqueue_many([], colour="low")  # type: ignore[call-arg]


def test_middleware_that_is_async_or_takes_other_arguments_is_refused_where_it_is_registered(
    recorder: RecordingClient,
) -> None:
    async def waits(drafts: list[Draft], push: Any) -> Any:
        return push(drafts)

    for use in (recorder.use, ServeMux().use_client):
        with pytest.raises(TypeError, match=r"client middleware: .*waits is no plain function"):
            use(waits)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"cannot be called with \(drafts, push\)"):
            use(lambda drafts: [])  # type: ignore[arg-type, misc]
        with pytest.raises(ValueError, match="at least one"):
            use()


def test_middleware_keeps_a_task_out_by_an_error_which_its_caller_gets(recorder: RecordingClient) -> None:
    @recorder.use
    def refuse_odd(drafts: list[Draft], push: Any) -> Any:
        answers = iter(push([draft for draft in drafts if draft.payload % 2 == 0]))
        return [QueueFullError("default") if draft.payload % 2 else next(answers) for draft in drafts]

    answers = recorder.enqueue_many([("a:b", number) for number in range(4)])

    assert [type(answer) for answer in answers] == [TaskInfo, QueueFullError, TaskInfo, QueueFullError]
    assert [task.payload for task in recorder.tasks] == [0, 2]
    with pytest.raises(QueueFullError):
        recorder.enqueue("a:b", 5)


def test_middleware_sees_what_became_of_each_task(recorder: RecordingClient) -> None:
    seen: list[type] = []

    @recorder.use
    def look(drafts: list[Draft], push: Any) -> Any:
        answers = push(drafts)
        seen.extend(map(type, answers))
        return answers

    recorder.enqueue("a:b", 1, task_id="one", unique=60)
    with pytest.raises(TaskIdConflictError):
        recorder.enqueue("a:b", 2, task_id="one")
    with pytest.raises(DuplicateTaskError):
        recorder.enqueue("a:b", 1, unique=60)

    assert seen == [TaskInfo, TaskIdConflictError, DuplicateTaskError]


def test_middleware_may_enqueue_more_than_it_was_given(recorder: RecordingClient) -> None:
    @recorder.use
    def audit(drafts: list[Draft], push: Any) -> Any:
        return push([*drafts, Draft("audit:note", len(drafts))])[: len(drafts)]

    info = recorder.enqueue("a:b", 1)

    assert [(task.type, task.id == info.id) for task in recorder.tasks] == [("a:b", True), ("audit:note", False)]


@pytest.fixture
def typed() -> ServeMux:
    """Two types with options of their own."""
    mux = ServeMux()
    mux.task("a:b", queue="high", retention=60, max_retries=3)(echo)
    mux.task("c:d", queue="low", timeout=7, headers={"of": "c:d"})(echo)
    return mux


def echo(task: Task) -> Any:
    return task.payload


def shown(recorder: RecordingClient) -> list[tuple[Any, ...]]:
    return [
        (task.type, task.options.queue, task.options.retention_s, task.options.timeout_s, task.options.max_retries)
        for task in recorder.tasks
    ]


def test_a_draft_that_gets_another_type_gets_the_options_of_that_one(typed: ServeMux) -> None:
    recorder = RecordingClient(mux=typed)

    @recorder.use
    def redirect(drafts: list[Draft], push: Any) -> Any:
        for draft in drafts:
            draft.type = "c:d"
            if draft.payload == "kept":
                draft.options["max_retries"] = 9
        return push(drafts)

    recorder.enqueue("a:b")
    recorder.enqueue("a:b", retention=60)
    recorder.enqueue_many([("a:b", "kept")])

    assert shown(recorder) == [
        ("c:d", "low", 0, 7, None), ("c:d", "low", 60, 7, None), ("c:d", "low", 0, 7, 9),
    ]  # fmt: skip
    assert headers_of(recorder) == [{}, {}, {}]


def test_an_option_that_middleware_takes_away_stays_away(typed: ServeMux) -> None:
    recorder = RecordingClient(mux=typed)

    @recorder.use
    def bare(drafts: list[Draft], push: Any) -> Any:
        for draft in drafts:
            draft.options.pop("retention", None)
            draft.headers.clear()
        return push(drafts)

    recorder.enqueue("a:b")
    recorder.enqueue("c:d")

    assert shown(recorder) == [("a:b", "high", 0, 1800, 3), ("c:d", "low", 0, 7, None)]
    assert headers_of(recorder) == [{}, {}]


def test_a_draft_that_middleware_adds_is_as_any_enqueue_there(typed: ServeMux) -> None:
    recorder = RecordingClient(mux=typed)

    @recorder.use
    def audit(drafts: list[Draft], push: Any) -> Any:
        return push([*drafts, Draft("c:d", "added"), Draft("c:d", "own", headers={"of": "me"})])[:1]

    with handling(headers=TRACE):
        recorder.enqueue("a:b", retention=5, inherit=False)

    added = ("c:d", "low", 0, 7, None)
    assert shown(recorder) == [("a:b", "high", 5, 1800, 3), added, added]
    assert headers_of(recorder) == [{}, {"of": "c:d", **TRACE}, {"of": "me", **TRACE}]


def test_a_message_goes_through_middleware_with_all_that_it_knows(typed: ServeMux) -> None:
    recorder, other = RecordingClient(mux=typed), ServeMux()

    @other.task("e:f", queue="critical", retention=60)
    @retry(max_retries=2)
    def add(task: Task[tuple[int, int]]) -> int:
        return sum(task.payload)

    @recorder.use
    def shift(drafts: list[Draft], push: Any) -> Any:
        for draft in drafts:
            draft.payload = (draft.payload[0] + 1, draft.payload[1])
        return push(drafts)

    info = add.enqueue(recorder, (1, 2), headers={"own": "x"})
    many = recorder.enqueue_many([add.task((1, 2)), ("a:b", [1, 2])])

    assert (info.queue, info.retention_s, info.max_retries) == ("critical", 60, 2)
    assert [(each.type, each.queue) for each in many if isinstance(each, TaskInfo)] == [
        ("e:f", "critical"), ("a:b", "high"),
    ]  # fmt: skip
    assert [task.payload for task in recorder.tasks] == [[2, 2]] * 3
    with pytest.raises(InvalidPayloadError):
        add.enqueue(recorder, (1, "2"))  # type: ignore[arg-type]


def mark_late(drafts: list[Draft], push: Any) -> Any:
    for draft in drafts:
        draft.headers["late"] = "1"
    return push(drafts)


def test_middleware_that_is_added_while_others_enqueue_breaks_none_of_them() -> None:
    recorder = RecordingClient()
    passed = threading.Event()

    def add_another(drafts: list[Draft], push: Any) -> Any:
        if not passed.is_set():
            passed.set()
            recorder.use(mark_late)
        return push(drafts)

    recorder.use(add_another)
    recorder.enqueue("a:b")
    recorder.enqueue("a:b")

    assert headers_of(recorder) == [{}, {"late": "1"}]


def test_middleware_of_a_client_for_asyncio_runs_in_a_copy_of_its_callers_context(
    valkey: Valkey, connection: redis.Redis
) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    def stamp(drafts: list[Draft], push: Any) -> Any:
        for draft in drafts:
            draft.headers["of"] = variable.get()
            draft.headers["thread"] = threading.current_thread().name
        variable.set("changed")
        return push(drafts)

    async def main() -> str:
        async with AsyncClient.from_url(valkey.url) as calls:
            calls.use(stamp)
            variable.set("caller")
            await calls.enqueue("a:b", task_id="one")
            await calls.enqueue_many([("a:b", 1)], task_id="two")
            return variable.get()

    assert asyncio.run(main()) == "caller"
    for task_id in ("one", "two"):
        headers = Inspector(connection).task(task_id).headers
        assert headers["of"] == "caller"
        assert headers["thread"].startswith("boilerd-client")
    assert sorted(pending(connection)) == ["one", "two"]


def test_a_call_whose_middleware_hangs_ends_in_time_and_does_not_blame_redis_alone(valkey: Valkey) -> None:
    goes_on = threading.Event()

    def hang(drafts: list[Draft], push: Any) -> Any:
        goes_on.wait(20)
        return push(drafts)

    async def main() -> None:
        async with AsyncClient.from_url(valkey.url, timeout_s=0.1) as calls:
            calls.use(hang)
            try:
                with pytest.raises(
                    BrokerUnavailableError, match=r"no answer within 0\.1 s, of Redis or client middlewa"
                ):
                    await calls.enqueue("a:b")
            finally:
                goes_on.set()

    asyncio.run(main())


def test_middleware_of_an_inner_mux_is_for_clients_of_that_mux() -> None:
    inner, outer = ServeMux(), ServeMux()
    outer.handle("inner:", inner)
    inner.not_found(lambda _: None)

    @inner.use_client
    def mark(drafts: list[Draft], push: Any) -> Any:
        for draft in drafts:
            draft.headers["mark"] = "1"
        return push(drafts)

    of_inner, of_outer = RecordingClient(mux=inner), RecordingClient(mux=outer)
    of_inner.enqueue("inner:a")
    of_outer.enqueue("inner:a")

    assert (headers_of(of_inner), headers_of(of_outer)) == ([{"mark": "1"}], [{}])


def test_a_draft_shows_neither_its_payload_nor_what_its_headers_hold() -> None:
    draft = Draft("a:b", {"password": "geheim"}, {"queue": "low"}, {"token": "geheim"})

    assert repr(draft) == "Draft(type='a:b', options={'queue': 'low'}, headers=['token'])"
