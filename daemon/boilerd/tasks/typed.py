"""Task types as objects that know their payload: what `ServeMux.task` and `ServeMux.function` make of a handler.

The payload is one positional value and the options are one TypedDict, so that type checkers see both. Declared
parameters cannot share a call with options (PEP 612), so a `CallType` enqueues in two steps.
"""

import functools
import inspect
import sys
from collections.abc import Callable, Coroutine, Mapping
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, Unpack, overload

import msgspec

from boilerd.errors import InvalidPayloadError
from boilerd.tasks.callables import name_of
from boilerd.tasks.options import EnqueueOptions
from boilerd.tasks.retry import RetryPolicy, policy_of, set_policy
from boilerd.tasks.task import R_co, Task, TaskInfo

# As in `tasks.task`.
if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from boilerd.tasks.payload_type import PayloadType

    P = TypeVar("P", default=Any)
    C = TypeVar("C", default=Any)
    R = TypeVar("R", default=Any)
else:
    from typing import TypeVar

    P, C, R = TypeVar("P"), TypeVar("C"), TypeVar("R")
As = ParamSpec("As")


class ResultType:
    """What a function declares of its result; looked up when somebody first waits for one, and kept."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    @functools.cached_property
    def declared(self) -> Any:
        """The type; Any without."""
        from boilerd.tasks.parameters import return_type_of  # noqa: PLC0415 - few ask

        return return_type_of(self._function)

    @functools.cached_property
    def kind(self) -> "PayloadType | None":
        """What decodes such a result; None: nothing that JSON has can be one."""
        from boilerd.tasks.payload_type import PayloadType  # noqa: PLC0415 - few ask

        try:
            return PayloadType(self.declared)
        except TypeError:
            return None


class Message(msgspec.Struct, Generic[R_co], frozen=True, gc=False):
    """A type with its payload: a task before it is enqueued, for batches and periodic tasks.

    Without Python's search for cycles, which batches would feel: what leads back to itself is no payload.

    Attributes:
        declared: What the payload must be, as the mux keeps it; None: anything that has a JSON form.
        options: Defaults of the enqueue.
        function: What runs it, if that is known here.
        result: What it declares of its result; None: anything.
    """

    type: str
    payload: Any = None
    declared: Any = None
    options: Mapping[str, Any] | None = None
    function: Callable[..., Any] | None = None
    result: ResultType | None = None

    def __repr__(self) -> str:
        """Without the payload."""
        return f"Message(type={self.type!r})"

    @property
    def result_type(self) -> Any:
        """The type of the task's result, as its handler declares it; Any without."""
        return self.result.declared if self.result else Any

    def decode_result(self, result: Any) -> Any:
        """The result, as JSON has it, as the type that the handler declares; or as it is where none can be that.

        Raises:
            InvalidPayloadError: It has another form, as of a worker with other code.
        """
        kind = self.result.kind if self.result else None
        if kind is None:
            return result
        try:
            return kind.decode(result)
        except InvalidPayloadError as error:
            raise InvalidPayloadError(f"result of {self.type}: {str(error).removeprefix('payload: ')}") from error

    def enqueue(self, client: "Enqueues", **options: Unpack[EnqueueOptions]) -> TaskInfo[R_co]:
        """Store it as a task; see `Client.enqueue` for options and errors.

        Raises:
            TypeError: The client is none, or an AsyncClient; nothing was sent.
        """
        info: Any = self._enqueue_of(client)(self, **options)
        if isinstance(info, CoroutineType):
            info.close()
            raise TypeError(f"{self.type}: enqueue() takes a Client; with an AsyncClient, await aenqueue(…)")
        stored: TaskInfo[R_co] = info
        return stored

    async def aenqueue(self, client: "EnqueuesAsync", **options: Unpack[EnqueueOptions]) -> TaskInfo[R_co]:
        """Store it as a task, from asyncio; see `Client.enqueue` for options and errors."""
        info: Any = self._enqueue_of(client)(self, **options)
        if isinstance(info, TaskInfo):
            raise TypeError(
                f"{self.type}: aenqueue() takes an AsyncClient; task {info.id} is stored, but the loop stood still"
                " meanwhile: make an AsyncClient, or use enqueue(…)"
            )
        stored: TaskInfo[R_co] = await info
        return stored

    def _enqueue_of(self, client: Any) -> Callable[..., Any]:
        """How the client enqueues messages; raises TypeError if it does not."""
        try:
            return client.enqueue_message  # type: ignore[no-any-return]
        except AttributeError:
            raise TypeError(
                f"{self.type}: a {type(client).__qualname__} is no client; write enqueue(client, payload)"
            ) from None


class _Declared:
    """A function that was registered with a mux: as an object it can be called as before, decorated and pickled.

    Attributes:
        type: The task type.
    """

    __wrapped__: Callable[..., Any]
    __qualname__: str

    def __init__(
        self, task_type: str, function: Callable[..., Any], handler: Callable[..., Any], message: Message
    ) -> None:
        wrapper: Any = self
        functools.update_wrapper(wrapper, function)
        self.__qualname__ = name_of(function)  # also of one that has no such attribute
        self.type = task_type
        self._handler = handler
        self._message = message
        if sys.version_info >= (3, 12) and inspect.iscoroutinefunction(function):
            inspect.markcoroutinefunction(self)

    @property
    def __boilerd_retry__(self) -> RetryPolicy | None:
        """The policy that ``@retry`` gave the function; that may stand above ``@mux.task`` as well as below."""
        return policy_of(self.__wrapped__)

    @__boilerd_retry__.setter
    def __boilerd_retry__(self, policy: RetryPolicy) -> None:
        for each in (self.__wrapped__, self._handler):  # the mux knows the second alone
            set_policy(each, policy)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.type!r} of {self.__qualname__}>"

    def __reduce__(self) -> str:
        """Pickle it as functions are: by its name."""
        return self.__qualname__


class TaskType(_Declared, Generic[P, C, R]):
    """A handler with the type of its payload, as `ServeMux.task` registers it.

    Call it with a task as the function that it was. Type parameters: of the payload, of what a call returns, of what
    is awaited of that.
    """

    def __call__(self, task: Task[P]) -> C:
        """Call the function."""
        result: C = self.__wrapped__(task)
        return result

    def task(self, payload: P, /) -> Message[R]:
        """A message for `Client.enqueue_many`, or for a periodic task."""
        return msgspec.structs.replace(self._message, payload=payload)

    def enqueue(self, client: "Enqueues", payload: P, /, **options: Unpack[EnqueueOptions]) -> TaskInfo[R]:
        """Store a task; see `Client.enqueue` for options and errors."""
        return self.task(payload).enqueue(client, **options)

    async def aenqueue(self, client: "EnqueuesAsync", payload: P, /, **options: Unpack[EnqueueOptions]) -> TaskInfo[R]:
        """Store a task, from asyncio; see `Client.enqueue` for options and errors."""
        return await self.task(payload).aenqueue(client, **options)


class CallType(_Declared, Generic[As, C, R]):
    """A function with declared parameters, as `ServeMux.function` registers it.

    Call it as the function that it was; ``.task(…)`` takes the same arguments, and what it returns is enqueued.
    """

    def __init__(
        self,
        task_type: str,
        function: Callable[As, C],
        handler: Callable[..., Any],
        message: Message,
        parameters: Mapping[str, inspect.Parameter],
    ) -> None:
        super().__init__(task_type, function, handler, message)
        self._signature = inspect.Signature([*parameters.values()])

    def __call__(self, *args: As.args, **kwargs: As.kwargs) -> C:
        """Call the function."""
        result: C = self.__wrapped__(*args, **kwargs)
        return result

    def task(self, *args: As.args, **kwargs: As.kwargs) -> Message[R]:
        """A message with these arguments, to be enqueued; those that are left out get their defaults in the worker.

        Raises:
            TypeError: The function cannot be called so.
        """
        try:
            arguments = self._signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{self.type}: {self.__qualname__}{self._signature}: {error}") from None
        return msgspec.structs.replace(self._message, payload=arguments)


# --- What checkers see; nobody makes one of these

if TYPE_CHECKING:

    class Enqueues(Protocol):
        """A Client, as far as messages use it."""

        def enqueue_message(self, message: Message[R], /, **options: Unpack[EnqueueOptions]) -> TaskInfo[R]:
            """Store a task."""

    class EnqueuesAsync(Protocol):
        """An AsyncClient, as far as messages use it."""

        def enqueue_message(
            self, message: Message[R], /, **options: Unpack[EnqueueOptions]
        ) -> Coroutine[Any, Any, TaskInfo[R]]:
            """Store a task."""

    # The coroutine stands first in each: the other way round the overloads would overlap.

    class InferredTask(Protocol):
        """The decorator of ``mux.task(name)``: the payload's type is that of the annotation."""

        @overload
        def __call__(
            self, function: Callable[[Task[P]], Coroutine[Any, Any, R]], /
        ) -> TaskType[P, Coroutine[Any, Any, R], R]: ...
        @overload
        def __call__(self, function: Callable[[Task[P]], R], /) -> TaskType[P, R, R]: ...

    class TaskOf(Protocol[P]):
        """The decorator of ``mux.task(name, payload=…)``."""

        @overload
        def __call__(
            self, function: Callable[[Task[P]], Coroutine[Any, Any, R]], /
        ) -> TaskType[P, Coroutine[Any, Any, R], R]: ...
        @overload
        def __call__(self, function: Callable[[Task[P]], R], /) -> TaskType[P, R, R]: ...

    class Function(Protocol):
        """The decorator of ``mux.function(name)``."""

        @overload
        def __call__(
            self, function: Callable[As, Coroutine[Any, Any, R]], /
        ) -> CallType[As, Coroutine[Any, Any, R], R]: ...
        @overload
        def __call__(self, function: Callable[As, R], /) -> CallType[As, R, R]: ...
